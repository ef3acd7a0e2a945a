import { BLOB_ID, type BlobId } from "../blobs/sealed.ts";
import { namespaceId, type NamespaceId } from "../ids.ts";
import { AppError } from "../errors.ts";

/** A blob that a backup needs. */
export interface ListedBlob {
  readonly namespace: NamespaceId;
  readonly blob: BlobId;
  /** As it lies in the target. */
  readonly bytes: number;
}

/** A line for each: what a prune and a restore go by without opening the database. */
export function listLine({ namespace, blob, bytes }: ListedBlob): string {
  return `${namespace} ${blob} ${bytes}\n`;
}

export async function* listedBlobs(content: AsyncIterable<Uint8Array>): AsyncGenerator<ListedBlob, void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of content) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) yield parsed(line);
  }
  if (rest !== "") throw unknownLine(rest);
}

function parsed(line: string): ListedBlob {
  const [namespace, blob = "", bytes] = line.split(" ");
  const id = namespaceId.schema.safeParse(namespace);
  if (!id.success || !BLOB_ID.test(blob)) throw unknownLine(line);
  return { namespace: id.data, blob: blob as BlobId, bytes: Number(bytes) };
}

function unknownLine(line: string): AppError {
  return new AppError(
    "internal",
    `The backup's list of blobs has a line of no known form: ${JSON.stringify(line)}.`,
  );
}
