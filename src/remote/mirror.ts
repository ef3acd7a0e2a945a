import type { NamespaceId } from "../ids.ts";
import type { Extent, ManifestRef } from "../snapshots/manifest.ts";

/** A file's content that is stored, and what the file looked like when it was read. */
export interface Kept {
  readonly inode: number;
  readonly size: number;
  readonly mtime: readonly [seconds: number, nanoseconds: number];
  /** null: more pieces than one entry holds. */
  readonly data: readonly Extent[] | null;
  /** As a manifest has it, of a small file. */
  readonly hash: string | undefined;
}

/**
 * Where a namespace's files are kept besides its directory. In local mode nowhere; in S3 mode the bucket has every
 * change before a call is answered, and what it does not take fails the call with 503.
 */
export interface Mirror {
  /** Before a change: throws when an earlier one is not kept yet and can't be. */
  ready(id: NamespaceId): Promise<void>;
  /** Runs what stores and then names blobs, so that nobody collects them between. */
  sharing<T>(id: NamespaceId, work: () => Promise<T>): Promise<T>;
  /** Stores the content of a file that is about to take its place. */
  keep(id: NamespaceId, fd: number): Promise<Kept | null>;
  /**
   * Resolves when it is kept what the entry `name` of an open directory is: the file of `kept`, or, without one, nothing.
   * To be called at once after the change.
   */
  changed(id: NamespaceId, dirFd: number, name: string, kept: Kept | null): Promise<void>;
  /** Resolves when all that has changed so far is kept. */
  commit(id: NamespaceId): Promise<void>;
  /** Runs a command; what it changed is kept when this settles. */
  running<T>(id: NamespaceId, command: () => Promise<T>): Promise<T>;
  /**
   * Runs work that makes many changes while nobody uses the files; what it changed is kept when this resolves, all in one
   * step. What it throws, this throws.
   */
  amend<T>(id: NamespaceId, work: () => Promise<T>): Promise<T>;
  /** `swap` puts another directory in the place of the files, with those of a manifest, while nobody uses them. */
  replace(id: NamespaceId, ref: ManifestRef, swap: () => Promise<void>): Promise<void>;
  /** Before an answer over what was read: throws when somebody else may have changed it since. */
  confirm(id: NamespaceId): Promise<void>;
  /** Of a namespace whose deletion has begun: nobody can commit to it any more. Its blobs are its remover's. Idempotent. */
  remove(id: NamespaceId): Promise<void>;
  /**
   * Runs what deletes blobs that nothing names, while nobody here stores any. null, and nothing is done, when it is not for
   * this host to say what is needed.
   */
  collecting<T>(id: NamespaceId, collect: (needed: Needed) => Promise<T>): Promise<T | null>;
}

/** What a namespace's files are in, besides snapshots. */
export interface Needed {
  /** Manifests, and each other blob as one with nothing in it. */
  readonly roots: readonly ManifestRef[];
  /** By performance.now(): no deletion may begin later, since another host may need the blob by then. */
  readonly until: number;
}

/** The directory is all there is. */
export const unmirrored: Mirror = {
  ready: async () => {},
  sharing: async (_, work) => work(),
  keep: async () => null,
  changed: async () => {},
  commit: async () => {},
  running: async (_, command) => command(),
  amend: async (_, work) => work(),
  replace: async (_id, _ref, swap) => swap(),
  confirm: async () => {},
  remove: async () => {},
  collecting: async (_, collect) => collect({ roots: [], until: Infinity }),
};

export type Mirrored = ReturnType<typeof mirrored>;

/** The mirror of one namespace. */
export function mirrored(mirror: Mirror, id: NamespaceId) {
  return {
    ready: async () => mirror.ready(id),
    sharing: async <T>(work: () => Promise<T>) => mirror.sharing(id, work),
    keep: async (fd: number) => mirror.keep(id, fd),
    changed: async (dirFd: number, name: string, kept: Kept | null) => mirror.changed(id, dirFd, name, kept),
    commit: async () => mirror.commit(id),
    confirm: async () => mirror.confirm(id),
  };
}
