import type { SealedBlobs } from "../blobs/sealed.ts";
import { lookFd } from "../kernel/look.ts";
import { createManifestWriter, type Entry, type ManifestRef } from "../snapshots/manifest.ts";
import type { Descriptor } from "../volumes/descriptor.ts";
import { inStep } from "./step.ts";

/**
 * Writes the manifest of a tree that was just built from `manifest`, with the inodes and times that its files have on
 * this disk, so that none of them need be read to see that it has not changed.
 */
export async function restamp(
  blobs: Pick<SealedBlobs, "put">,
  root: Descriptor,
  manifest: AsyncIterable<readonly Entry[]>,
  started: number,
): Promise<ManifestRef> {
  const writer = createManifestWriter(blobs);
  const counted = { files: 0, bytes: 0 };
  for await (const step of inStep(root, manifest)) {
    if ("type" in step) {
      await writer.add(step);
      continue;
    }
    const { entry, found } = step;
    if (entry.type === "file" || entry.type === "link") counted.files += 1;
    if (entry.type === "file") {
      counted.bytes += entry.size;
      await writer.add({ ...entry, inode: found.inode, ctime: found.ctime });
    } else {
      await writer.add(entry);
    }
  }
  const { mode, mtime } = lookFd(root.fd);
  const { ref } = await writer.finish({
    started,
    root: { mode, mtime: [mtime[0], mtime[1]] },
    ...counted,
    skipped: 0,
    repack: [],
  });
  return ref;
}
