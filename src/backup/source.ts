import type { NamespaceId } from "../ids.ts";
import type { ManifestRef } from "../snapshots/manifest.ts";

/** What a backup takes of one namespace. */
export interface SourceNamespace {
  readonly id: NamespaceId;
  /** Under the appliance's secret; null when nothing of it was ever sealed. */
  readonly wrappedKey: Uint8Array | null;
  /** Of all its snapshots, and of its files as they were captured for this backup. */
  readonly manifests: readonly ManifestRef[];
}

/** A namespace whose files are not in a backup as they were when it was made, and why. */
export interface Missed {
  readonly namespace: NamespaceId;
  readonly reason: string;
}

/** An appliance held still: nothing that the copy of its database names is taken away until `end`. */
export interface Capture {
  readonly databaseVersion: number;
  readonly databaseBytes: number;
  readonly namespaceCount: number;
  /** Of these there is what an earlier backup captured, if anything. */
  readonly missed: readonly Missed[];
  database(): AsyncIterable<Uint8Array>;
  namespaces(): AsyncIterable<SourceNamespace>;
  /** A sealed blob as it lies there; null when there is none. */
  blob(key: string): Promise<Uint8Array | null>;
  /** Whether the namespace is there still. */
  exists(namespace: NamespaceId): Promise<boolean>;
}

export type Progress = (what: string, done: number, of: number | null) => void;
