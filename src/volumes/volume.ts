import type { Announce } from "../audit/announce.ts";
import type { NamespaceId } from "../ids.ts";
import { AppError } from "../errors.ts";
import { previewOf, type Content } from "./content.ts";
import type { Descriptor } from "./descriptor.ts";
import { listDirectory, type Listing } from "./list.ts";
import type { WorkspacePath } from "./path.ts";
import type { FileQuota } from "./quota.ts";
import { openFile, type OpenFile } from "./read.ts";
import { remove } from "./remove.ts";
import { openSpace, type Space } from "./space.ts";
import { usageOf, type Usage } from "./usage.ts";
import { writeFile, type WriteLimits, type WriteSource, type Written } from "./write.ts";

/** The files of one namespace. Reading needs no volume on disk; writing does (`Volumes.ensure`). */
export interface Volume {
  write(path: WorkspacePath, source: WriteSource, announce: Announce): Promise<Written>;
  open(path: WorkspacePath): OpenFile;
  content(path: WorkspacePath): Promise<Content>;
  list(path: WorkspacePath, recursive: boolean, signal?: AbortSignal): Promise<Listing>;
  delete(path: WorkspacePath, announce: Announce): Promise<void>;
  usage(): Promise<Usage>;
}

export interface VolumeParts {
  /** The directory of all volumes. */
  readonly volumes: Descriptor;
  /** null: a namespace that nothing was ever written in. */
  readonly id: NamespaceId | null;
  readonly limits: WriteLimits;
  readonly quota: FileQuota;
  readonly freshName: () => string;
}

export function openVolume({ volumes, id, limits, quota, freshName }: VolumeParts): Volume {
  const space = () => (id === null ? null : openSpace(volumes, id));

  function present(path: WorkspacePath): Space {
    const found = space();
    if (found === null) throw new AppError("not_found", `There is no ${path.text}.`);
    return found;
  }

  async function usage(): Promise<Usage> {
    using found = space();
    return found === null ? { bytes: 0, files: 0, directories: 0 } : await usageOf(found);
  }

  function open(path: WorkspacePath): OpenFile {
    using found = present(path);
    return openFile(found, path);
  }

  return {
    usage,
    open,

    async write(path, source, announce) {
      using found = present(path);
      const count = async () => {
        const { files, directories } = await usageOf(found);
        return files + directories;
      };
      return await writeFile(found, path, source, {
        limits,
        announce,
        freshName,
        within: async (newEntries, make) =>
          id === null ? make() : quota.within(id, newEntries, count, make),
      });
    },

    async content(path) {
      const file = open(path);
      try {
        return await previewOf(file);
      } finally {
        await file.close();
      }
    },

    async list(path, recursive, signal) {
      using found = space();
      if (found !== null) return await listDirectory(found, path, recursive, signal);
      if (path.names.length > 0) throw new AppError("not_found", `There is no ${path.text}.`);
      return { entries: [], truncated: false };
    },

    async delete(path, announce) {
      using found = space();
      await remove(found, path, { freshName, announce });
      if (id !== null) quota.stale(id);
    },
  };
}
