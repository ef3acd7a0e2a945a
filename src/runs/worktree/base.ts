import { runBase, type ManifestRef } from "../../snapshots/manifest.ts";
import type { RunRow } from "../run.ts";

/** What a worktree was made from, as its run's row has it. Its blobs stay for as long as the row says so. */
export interface Base {
  readonly from: "namespace" | "snapshot" | "empty";
  /** null when it began empty. */
  readonly manifest: ManifestRef | null;
}

export const EMPTY: Base = { from: "empty", manifest: null };

/** null before it was made, and once the worktree is gone. */
export const baseOf = ({ base }: Pick<RunRow, "base">): Base | null => runBase.nullable().parse(base);

/** What names a manifest in receipts: its blobs are known by keyed hashes of what they hold. null for none. */
export function hashOf({ manifest }: Base): string | null {
  if (manifest === null) return null;
  return `sha256:${sha256(JSON.stringify(manifest.blobs))}`;
}

function sha256(data: string | Uint8Array): string {
  return new Bun.CryptoHasher("sha256").update(data).digest("hex");
}
