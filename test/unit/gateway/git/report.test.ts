import { describe, expect, test } from "bun:test";
import { lessCapabilities } from "../../../../src/gateway/git/advertisement.ts";
import { pushRefused } from "../../../../src/gateway/git/answers.ts";
import { createPackWatch } from "../../../../src/gateway/git/pack-watch.ts";
import { createPacketReader, FLUSH, packet } from "../../../../src/gateway/git/packets.ts";
import { createReportReader } from "../../../../src/gateway/git/report.ts";

const ZERO = "0".repeat(40);
const ONE = "1".repeat(40);
const commands = ["a", "b"].map((name) => ({ old: ZERO, new: ONE, ref: `refs/heads/${name}` }));

const report = Buffer.concat([
  packet("unpack ok\n"),
  packet("ok refs/heads/a\n"),
  packet("ng refs/heads/b failed to update ref\n"),
  FLUSH,
]);
const banded = (bytes: Uint8Array, size: number) =>
  Buffer.concat(
    Array.from({ length: Math.ceil(bytes.length / size) }, (_, at) =>
      packet("\u0001", bytes.subarray(at * size, (at + 1) * size)),
    ),
  );

function read(answer: Uint8Array, { bands = true, size = 1 } = {}) {
  const reader = createReportReader(commands, bands);
  for (let at = 0; at < answer.length; at += size) reader.add(answer.subarray(at, at + size));
  return { accepted: reader.outcomes().map(({ accepted }) => accepted), complete: reader.complete(), reader };
}

describe("what a server says of a push", () => {
  test.each([1, 5, 1000])("is read in bands of %d bytes, progress between", (size) => {
    const answer = Buffer.concat([
      packet("\u0002working\n"),
      banded(report, size),
      packet("\u0002done\n"),
      FLUSH,
    ]);
    expect(read(answer)).toMatchObject({ accepted: [true, false], complete: true });
  });

  test("is read without bands", () => {
    expect(read(report, { bands: false })).toMatchObject({ accepted: [true, false], complete: true });
  });

  test("that is cut, or not understood, says nothing of the rest", () => {
    expect(read(banded(report.subarray(0, 40), 1000))).toMatchObject({
      accepted: [true, null],
      complete: false,
    });
    expect(read(Buffer.from("<html>"))).toMatchObject({ accepted: [null, null], complete: false });
  });

  test("may be of another ref than the one that was pushed", () => {
    const other = Buffer.concat([
      packet("unpack ok\n"),
      packet("ok refs/heads/a\n"),
      packet("option refname refs/heads/main\n"),
      packet(`option old-oid ${ONE}\n`),
      FLUSH,
    ]);
    const { reader } = read(banded(other, 1000));
    expect(reader.outcomes()[0]).toEqual({ ref: "refs/heads/main", old: ONE, new: ONE, accepted: true });
  });
});

describe("a refusal", () => {
  const refused = { unpack: "ok", refs: [{ ref: "refs/heads/main", why: "no" }], explanation: ["Why not."] };

  test("is in the bands that git asked for", async () => {
    const response = pushRefused({ ...refused, capabilities: ["report-status", "side-band-64k"] });
    expect([response.status, response.headers.get("content-type")]).toEqual([
      200,
      "application/x-git-receive-pack-result",
    ]);
    expect(await response.text()).toBe(
      "000e\u0002Why not.\n0031\u0001000eunpack ok\n001ang refs/heads/main no\n00000000",
    );
  });

  test("is plain for a git that asked for none", async () => {
    const response = pushRefused({ ...refused, capabilities: ["report-status"] });
    expect(await response.text()).toBe("000eunpack ok\n001ang refs/heads/main no\n0000");
  });

  test("of many refs fills several packets", async () => {
    const many = Array.from({ length: 600 }, (_, n) => ({
      ref: `refs/heads/${"x".repeat(200)}${n}`,
      why: "no",
    }));
    const response = pushRefused({ ...refused, refs: many, capabilities: ["side-band-64k"] });
    const reader = createPacketReader();
    reader.add(await response.bytes());
    const kinds: string[] = [];
    for (let next = reader.next(); next !== null; next = reader.next()) kinds.push(next.kind);
    expect(kinds).toEqual(["data", "data", "data", "data", "flush"]);
    expect(reader.rest()).toHaveLength(0);
  });
});

describe("an answer with a pack", () => {
  const seen = (bytes: Uint8Array) => {
    const watch = createPackWatch();
    for (const byte of bytes) watch.add(Uint8Array.of(byte));
    return watch.found();
  };

  test("is known in each version of the protocol", () => {
    expect(seen(Buffer.concat([packet("packfile\n"), packet("\u0001PACKxx"), FLUSH]))).toBe(true);
    expect(seen(Buffer.concat([packet("NAK\n"), packet("\u0002counting\n"), packet("\u0001PACKxx")]))).toBe(
      true,
    );
    expect(seen(Buffer.concat([packet("NAK\n"), Buffer.from("PACKxx")]))).toBe(true);
  });

  test("is not one that lists refs or negotiates", () => {
    expect(seen(Buffer.concat([packet(`${ONE} refs/heads/main\n`), FLUSH]))).toBe(false);
    expect(seen(Buffer.concat([packet("acknowledgments\n"), packet("NAK\n"), FLUSH]))).toBe(false);
  });
});

test("what a server offers for a push is cut to what may be asked for", async () => {
  const head = Buffer.concat([packet("# service=git-receive-pack\n"), FLUSH]);
  const refs = Buffer.concat([packet(`${ONE} refs/heads/b\n`), FLUSH]);
  const offered = packet(
    `${ONE} refs/heads/a\0report-status delete-refs side-band-64k push-options push-cert=1234 agent=git/2 new\n`,
  );
  const sent = Buffer.concat([head, offered, refs]);
  for (const size of [1, 10, 1000]) {
    const chunks = Array.from({ length: Math.ceil(sent.length / size) }, (_, at) =>
      sent.subarray(at * size, (at + 1) * size),
    );
    const source = new Response(
      (async function* () {
        yield* chunks;
      })(),
    ).body;
    const shown = Buffer.from(await new Response(source?.pipeThrough(lessCapabilities())).bytes());
    const kept = packet(`${ONE} refs/heads/a\0report-status delete-refs side-band-64k agent=git/2\n`);
    expect(shown).toEqual(Buffer.concat([head, kept, refs]));
  }
});
