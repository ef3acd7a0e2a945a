import { createHash } from "node:crypto";
import { createReadStream, readdirSync, readlinkSync, statSync } from "node:fs";
import type { Library } from "../sandboxd/library.ts";
import { processesOf } from "./processes.ts";
import type { LiveRun } from "./run.ts";
import { pairs, see, type Section } from "./section.ts";

const TIMEOUT_MS = 10_000;
const WRITABLE_BY_OTHERS = 0o022;

interface ImageOptions {
  readonly library: Library;
  /** Reads all of it, which takes some seconds. */
  readonly hashed: boolean;
}

export async function imageSection(run: LiveRun, { library, hashed }: ImageOptions): Promise<Section> {
  const { onRecord, host } = run;
  return see({
    name: "image",
    title: "What the sandbox is made of",
    claim:
      "Its root file system is the released image, which is root's and which it has open, and its kernel is the released gVisor: both are those on record.",
    by_hand: [
      `sha256sum ${library.runImage}`,
      `${library.runsc} --version`,
      `ls -l /proc/$(pgrep -f '[r]unsc-sandbox.*${run.id}')/fd | grep erofs`,
    ],
    look: async () => {
      const { manifest, runImage, runsc } = library;
      const version = await host.run([runsc, "--version"], { timeoutMs: TIMEOUT_MS });
      const { uid, mode, size } = statSync(runImage);
      const sandbox = processesOf(run).find(({ role }) => role === "sandbox")?.pid;
      const facts = {
        image: { file: runImage, bytes: size, uid, mode: (mode & 0o7777).toString(8).padStart(4, "0") },
        digest: manifest.run_rootfs,
        hashed: hashed ? `sha256:${await hashOf(runImage)}` : null,
        opened: sandbox === undefined ? [] : openedImages(sandbox),
        runsc: {
          file: runsc,
          version: version.split("\n")[0] ?? "",
          sha256: await hashOf(runsc),
          released: manifest.runsc,
        },
        on_record: onRecord.sandbox,
      };
      const has = (ok: boolean, what: string) => (ok ? [] : [what]);
      return {
        facts,
        lines: pairs([
          ["image", `${runImage}, ${size} bytes, uid ${uid}, mode ${facts.image.mode}`],
          ["digest", facts.digest],
          ["hashed now", facts.hashed ?? "not asked: --hash-image"],
          ["open in the sandbox", facts.opened.join(" ")],
          [
            "on record",
            onRecord.sandbox === null
              ? "nothing"
              : `${onRecord.sandbox.rootfs}, runsc ${onRecord.sandbox.runsc}`,
          ],
          ["runsc", `${facts.runsc.version}, sha256 ${facts.runsc.sha256}`],
        ]),
        wrong: [
          ...has(
            facts.digest === onRecord.sandbox?.rootfs,
            "the image has another digest than the one on record",
          ),
          ...has(
            facts.hashed === null || facts.hashed === facts.digest,
            "the image is not what its digest says",
          ),
          ...has(
            manifest.runsc === onRecord.sandbox?.runsc,
            "runsc has another version than the one on record",
          ),
          ...has(uid === 0 && (mode & WRITABLE_BY_OTHERS) === 0, "others than root could change the image"),
          ...has(facts.opened.includes(runImage), "the sandbox has another image open"),
        ],
      };
    },
  });
}

function openedImages(pid: number): string[] {
  const links = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
  return [...new Set(links.filter((path) => path.includes(".erofs")))];
}

async function hashOf(file: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const piece of createReadStream(file, { highWaterMark: 1 << 20 }))
    hash.update(piece as Uint8Array);
  return hash.digest("hex");
}
