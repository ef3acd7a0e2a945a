import { AppError, type ErrorCode } from "../errors.ts";
import type { Capture, Progress } from "../backup/source.ts";
import { captureLine, existsAnswer, namespaceLine, type CaptureLine } from "../backup/wire.ts";
import type { Appliance } from "./appliance.ts";

/** A capture that the running api makes and keeps while `work` goes on. */
export async function withCapture<T>(
  appliance: Pick<Appliance, "call" | "ask">,
  files: boolean,
  progress: Progress,
  work: (capture: Capture) => Promise<T>,
): Promise<T> {
  const { lines, ready } = await begin(appliance, files, progress);
  try {
    // Read on, so that an api which goes away is noticed at once: then nothing is kept for us any more.
    const gone = (async (): Promise<never> => {
      while ((await lines.next()).done !== true);
      throw new AppError("unavailable", "The appliance was stopped during the backup; try again.");
    })();
    return await Promise.race([work(captureOf(appliance, ready)), gone]);
  } finally {
    // It would be noticed by itself, a little later.
    await appliance.call(`/admin/backup/${ready.ready}`, { method: "DELETE" }).catch(() => {});
    await lines.return(undefined);
  }
}

/** A capture whose client was killed a moment ago ends soon. */
const BUSY_MS = 60_000;
const AGAIN_MS = 500;

async function begin(appliance: Pick<Appliance, "call">, files: boolean, progress: Progress) {
  for (const deadline = performance.now() + BUSY_MS; ; await Bun.sleep(AGAIN_MS)) {
    const response = await appliance.call("/admin/backup/capture", { method: "POST", json: { files } });
    const lines = linesOf(response)[Symbol.asyncIterator]();
    try {
      return { lines, ready: await readyLine(lines, progress) };
    } catch (error) {
      await lines.return(undefined);
      const isBusy = error instanceof AppError && error.code === "busy";
      if (!isBusy || performance.now() > deadline) throw error;
      progress("waiting for another backup", 0, null);
    }
  }
}

type Ready = Extract<CaptureLine, { ready: string }>;

async function readyLine(lines: AsyncIterator<string>, progress: Progress): Promise<Ready> {
  for (;;) {
    const { done, value } = await lines.next();
    if (done === true)
      throw new AppError("unavailable", "The appliance was stopped during the backup; try again.");
    const line = captureLine.parse(JSON.parse(value));
    if ("ready" in line) return line;
    if ("failed" in line) throw new AppError(line.code as ErrorCode, line.failed);
    if ("step" in line) progress(line.step, line.done, line.of);
  }
}

function captureOf({ call, ask }: Pick<Appliance, "call" | "ask">, ready: Ready): Capture {
  const path = `/admin/backup/${ready.ready}`;
  return {
    databaseVersion: ready.databaseVersion,
    databaseBytes: ready.databaseBytes,
    namespaceCount: ready.namespaceCount,
    missed: ready.missed,
    async *database() {
      yield* bodyOf(await call(`${path}/database`));
    },
    async *namespaces() {
      for await (const text of linesOf(await call(`${path}/namespaces`))) {
        const { wrappedKey, ...line } = namespaceLine.parse(JSON.parse(text));
        yield { ...line, wrappedKey: wrappedKey === null ? null : Buffer.from(wrappedKey, "base64") };
      }
    },
    async blob(key) {
      try {
        return await (await call(`${path}/blob?key=${encodeURIComponent(key)}`)).bytes();
      } catch (error) {
        if (error instanceof AppError && error.code === "not_found") return null;
        throw error;
      }
    },
    exists: async (namespace) => (await ask(existsAnswer, `${path}/exists?namespace=${namespace}`)).exists,
  };
}

function bodyOf(response: Response): ReadableStream<Uint8Array> {
  if (response.body === null) throw new AppError("unavailable", "The appliance answered nothing.");
  return response.body;
}

async function* linesOf(response: Response): AsyncGenerator<string, void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of bodyOf(response)) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
  }
}
