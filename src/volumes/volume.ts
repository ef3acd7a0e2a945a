import type { Announce } from "../audit/announce.ts";
import type { NamespaceId } from "../ids.ts";
import { AppError } from "../errors.ts";
import { mirrored, type Mirror } from "../remote/mirror.ts";
import { previewOf, type Content } from "./content.ts";
import type { Descriptor } from "./descriptor.ts";
import type { LeaseMode, Leases } from "./leases.ts";
import { listDirectory, type Listing } from "./list.ts";
import type { WorkspacePath } from "./path.ts";
import type { Quota } from "./quota.ts";
import { openFile, type OpenFile } from "./read.ts";
import { remove } from "./remove.ts";
import { openSpace, type Space } from "./space.ts";
import { writeFile, type WriteLimits, type WriteSource, type Written } from "./write.ts";

const NOTHING_MORE = { bytes: 0, entries: 0 };

/** The files of one namespace. Reading needs no volume on disk. */
export interface Volume {
  write(path: WorkspacePath, source: WriteSource, announce: Announce): Promise<Written>;
  open(path: WorkspacePath): Promise<OpenFile>;
  content(path: WorkspacePath): Promise<Content>;
  list(path: WorkspacePath, recursive: boolean, signal?: AbortSignal): Promise<Listing>;
  delete(path: WorkspacePath, announce: Announce): Promise<void>;
}

export interface VolumeParts {
  /** The directory of all volumes. */
  readonly volumes: Descriptor;
  readonly id: NamespaceId;
  readonly leases: Pick<Leases, "hold">;
  readonly limits: WriteLimits;
  readonly quota: Quota;
  readonly freshName: () => string;
  readonly mirror: Mirror;
}

export function openVolume(parts: VolumeParts): Volume {
  const { volumes, id, leases, limits, quota, freshName } = parts;
  const mirror = mirrored(parts.mirror, id);

  /** A refusal says something of the files: it holds only while they are still this host's. For who has a lease. */
  async function refusable<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof AppError) || error.code !== "unavailable") await mirror.confirm();
      throw error;
    }
  }

  async function within<T>(mode: LeaseMode, work: (space: Space) => Promise<T>): Promise<T> {
    return leases.hold(id, mode, async () =>
      refusable(async () => {
        using space = openSpace(volumes, id);
        // The lease has made it: somebody has taken it away since.
        if (space === null) throw new Error(`the volume of ${id} is gone`);
        return await work(space);
      }),
    );
  }
  const reading = async <T>(work: (space: Space) => Promise<T>): Promise<T> => within("read", work);
  const changing = async (work: (space: Space) => Promise<void>): Promise<void> => within("write", work);

  async function open(path: WorkspacePath): Promise<OpenFile> {
    const file = await reading(async (space) => openFile(space, path));
    try {
      await mirror.confirm();
      return file;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  return {
    open,

    write: async (path, source, announce) =>
      reading(async (space) => {
        await mirror.ready();
        return await writeFile(space, path, source, {
          limits,
          announce,
          freshName,
          changing,
          within: async (more, make) => quota.within(id, more, make),
          mirror,
        });
      }),

    async content(path) {
      const file = await open(path);
      try {
        return await previewOf(file);
      } finally {
        await file.close();
      }
    },

    async list(path, recursive, signal) {
      const listing = await reading(async (space) => listDirectory(space, path, recursive, signal));
      await mirror.confirm();
      return listing;
    },

    delete: async (path, announce) =>
      quota.within(id, NOTHING_MORE, async (room) => {
        const readied = async (work: (space: Space) => Promise<void>) =>
          changing(async (space) => {
            await mirror.ready();
            await work(space);
          });
        await remove(path, { freshName, announce, changing: readied, purging: reading, room, mirror });
      }),
  };
}

/** Of a namespace that does not exist. It reads as empty; who writes has it made first. */
export const noVolume: Volume = {
  write: async (path) => absent(path),
  open: async (path) => absent(path),
  content: async (path) => absent(path),
  delete: async (path) => absent(path),
  list: async (path) => (path.names.length > 0 ? absent(path) : { entries: [], truncated: false }),
};

function absent(path: WorkspacePath): never {
  throw new AppError("not_found", `There is no ${path.text}.`);
}
