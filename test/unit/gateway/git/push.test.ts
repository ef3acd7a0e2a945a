import { describe, expect, test } from "bun:test";
import { FLUSH, packet } from "../../../../src/gateway/git/packets.ts";
import { createPushReader, MAX_BLOCK_BYTES, type Push } from "../../../../src/gateway/git/push.ts";
import { seededRandom } from "../../../fixtures/random.ts";

const ZERO = "0".repeat(40);
const ONE = "1".repeat(40);
const TWO = "2".repeat(40);
const CAPABILITIES = "report-status side-band-64k agent=git/2.39.5";
const PACK = Buffer.from("PACK-and-the-rest");

const first = (ref: string, capabilities = CAPABILITIES, old = ZERO) =>
  packet(`${old} ${ONE} ${ref}\0 ${capabilities}`);
const line = (ref: string) => packet(`${ONE} ${TWO} ${ref}`);

/** Of a whole body, in chunks of that size. */
function read(body: Uint8Array, size = body.length): Push {
  const reader = createPushReader();
  for (let at = 0; at < body.length; at += size) {
    const push = reader.add(body.subarray(at, at + size));
    if (push !== null) return push;
  }
  return reader.end();
}

const body = (...parts: Uint8Array[]) => Buffer.concat(parts);

describe("what git sends is read", () => {
  test.each([1, 3, 7, 1000])("in chunks of %d bytes, to the byte", (size) => {
    const sent = body(
      packet(`shallow ${TWO}\n`),
      first("refs/heads/agent/a"),
      line("refs/heads/agent/b"),
      FLUSH,
      PACK,
    );
    const push = read(sent, size);
    if (push.kind !== "commands") throw new Error(push.kind);
    expect(push.commands).toEqual([
      { old: ZERO, new: ONE, ref: "refs/heads/agent/a" },
      { old: ONE, new: TWO, ref: "refs/heads/agent/b" },
    ]);
    expect(push.capabilities).toEqual(CAPABILITIES.split(" "));
    expect(push.head).toEqual(sent.subarray(0, sent.length - PACK.length));
    expect(sent.subarray(push.head.length).subarray(0, push.rest.length)).toEqual(Buffer.from(push.rest));
  });

  test("a probe is a lone 0000", () => {
    expect(read(FLUSH)).toEqual({ kind: "probe", rest: Buffer.alloc(0) });
    expect(read(body(FLUSH, PACK))).toEqual({ kind: "probe", rest: PACK });
  });

  test("SHA-256 and a deletion are", () => {
    const oid = "a".repeat(64);
    const push = read(
      body(packet(`${oid} ${"0".repeat(64)} refs/heads/x\0report-status object-format=sha256`), FLUSH),
    );
    expect(push).toMatchObject({ kind: "commands", commands: [{ old: oid, ref: "refs/heads/x" }] });
  });

  test("a name's bytes stay apart, whatever they mean", () => {
    const push = read(body(first("refs/heads/agent/x\u00a0refs/heads/main"), FLUSH));
    if (push.kind !== "commands") throw new Error(push.kind);
    expect(push.commands).toHaveLength(1);
    expect(Buffer.from(push.commands[0]?.ref ?? "", "latin1").toString()).toBe(
      "refs/heads/agent/x\u00a0refs/heads/main",
    );
  });
});

describe("what others may read in another way is not", () => {
  const good = first("refs/heads/agent/a");
  test.each<[string, Uint8Array, string]>([
    ["a signed push", body(packet(`push-cert\0${CAPABILITIES}`), FLUSH), "is signed"],
    ["push options", body(first("refs/heads/a", `${CAPABILITIES} push-options`), FLUSH), "has options"],
    ["an unknown capability", body(first("refs/heads/a", "report-status new-thing"), FLUSH), "new-thing"],
    ["gzip", Bun.gzipSync(new Uint8Array(body(good, FLUSH))), "framed"],
    ["no capabilities", body(line("refs/heads/a"), FLUSH), "wrong place"],
    ["capabilities twice", body(good, first("refs/heads/b"), FLUSH), "wrong place"],
    ["two NULs", body(packet(`${ZERO} ${ONE} refs/heads/a\0report-status\0x`), FLUSH), "wrong place"],
    ["one ref twice", body(good, line("refs/heads/agent/a"), FLUSH), "twice"],
    ["a late shallow line", body(good, packet(`shallow ${ONE}`), FLUSH), "no change of a ref"],
    ["a tab for a space", body(packet(`${ZERO}\t${ONE} refs/heads/a\0report-status`), FLUSH), "no change"],
    ["two spaces", body(packet(`${ZERO} ${ONE}  refs/heads/a\0report-status`), FLUSH), "no change of a ref"],
    ["an upper-case oid", body(packet(`${ZERO} ${"A".repeat(40)} refs/heads/a\0x`), FLUSH), "no change of"],
    ["oids of two lengths", body(packet(`${ZERO} ${"1".repeat(64)} refs/heads/a\0agent=x`), FLUSH), "no ch"],
    ["a newline in a name", body(packet(`${ZERO} ${ONE} refs/heads/a\nb\0agent=x`), FLUSH), "no change of a"],
    ["a ref outside of refs/", body(packet(`${ZERO} ${ONE} HEAD\0agent=x`), FLUSH), "no change of a ref"],
    ["shallow lines alone", body(packet(`shallow ${ONE}`), FLUSH), "names no ref"],
    ["a delimiter", body(good, Buffer.from("0001")), "framed"],
    ["an empty packet", body(good, Buffer.from("0004"), FLUSH), "framed"],
    ["a length in upper case", body(Buffer.from("003A")), "framed"],
    ["a length beyond git's", body(Buffer.from("fff5")), "framed"],
    ["a long name", body(first(`refs/heads/${"a".repeat(1024)}`), FLUSH), "too long"],
    ["half of it", body(good), "ends in the middle"],
    ["nothing", body(), "ends in the middle"],
  ])("%s", (_, sent, why) => {
    const push = read(sent);
    if (push.kind !== "unreadable") throw new Error(push.kind);
    expect(push.why).toContain(why);
  });

  test("a block beyond 64 KiB, and no more of it is kept", () => {
    const lines = Array.from({ length: 800 }, (_, n) => line(`refs/heads/agent/branch-${n}`));
    const sent = body(first("refs/heads/agent/a"), ...lines, FLUSH);
    expect(sent.length).toBeGreaterThan(MAX_BLOCK_BYTES);
    expect(read(sent, 4096)).toMatchObject({
      kind: "unreadable",
      why: "changes too many refs at once; push fewer",
    });
  });
});

/**
 * git's own reader (read_head_info of builtin/receive-pack.c), as loose as it is: what it makes of a block is what the
 * server does.
 */
function asGitReads(sent: Buffer): string[] {
  const refs: string[] = [];
  for (let at = 0; at + 4 <= sent.length;) {
    const length = Number.parseInt(sent.toString("latin1", at, at + 4), 16);
    if (!(length >= 4)) return refs;
    const whole = sent.toString("latin1", at + 4, at + length).replace(/\n$/, "");
    at += length;
    const [text = ""] = whole.split("\0");
    if (text.startsWith("shallow ")) continue;
    if (/^[0-9a-fA-F]{40} [0-9a-fA-F]{40} /.test(text)) refs.push(text.slice(82));
  }
  return refs;
}

test("whatever is changed in a push, nothing is sent on that git would read otherwise", () => {
  const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
  const dice = seededRandom(seed);
  const pick = <T>(from: readonly T[]) => from[dice.int(from.length)] as T;
  const seeds = [
    body(packet(`shallow ${TWO}\n`), first("refs/heads/agent/a"), line("refs/heads/agent/b\n"), FLUSH, PACK),
    body(first("refs/heads/agent/x\u00a0y"), line("refs/tags/v1"), FLUSH, PACK),
    body(first("refs/heads/a", "report-status-v2 atomic quiet"), FLUSH),
  ];
  const counts = { read: 0, refused: 0 };
  for (let n = 0; n < 20_000; n += 1) {
    const sent = Buffer.from(pick(seeds));
    for (let change = 0; change <= dice.int(3); change += 1) {
      const at = dice.int(sent.length);
      if (dice.int(2) === 0) sent[at] = dice.int(256);
      else sent.write(pick(["\0", " ", "\n", "refs/", "0000", "\u00a0", "shallow ", "0001", "\t", "f"]), at);
    }
    const push = read(sent, 1 + dice.int(sent.length));
    if (push.kind !== "commands") {
      counts.refused += 1;
      continue;
    }
    counts.read += 1;
    const block = Buffer.concat([push.head]);
    expect(
      push.commands.map(({ ref }) => ref),
      `SEED=${seed}`,
    ).toEqual(asGitReads(block));
    expect(sent.subarray(0, block.length)).toEqual(block);
  }
  expect(counts.read).toBeGreaterThan(1000);
  expect(counts.refused).toBeGreaterThan(1000);
});
