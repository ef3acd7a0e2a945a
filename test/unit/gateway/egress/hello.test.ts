import { expect, test } from "bun:test";
import { readHello } from "../../../../src/gateway/egress/hello.ts";
import { createWatch } from "../../../../src/gateway/egress/watch.ts";
import { clientHello, helloRetry, record, serverHello } from "../../../fixtures/tls-records.ts";

const NAME = 0;
const ENCRYPTED = 0xfe0d;

test("the name of a ClientHello is read, in whatever pieces it comes", () => {
  const hello = clientHello("Files.test");
  expect(readHello(hello)).toEqual({
    kind: "hello",
    name: "files.test",
    encrypted: false,
    bytes: hello.length,
  });
  const followed = Buffer.concat([hello, Buffer.from("1703030001ff", "hex")]);
  expect(readHello(followed)).toMatchObject({ name: "files.test", bytes: hello.length });
  for (let length = 0; length < hello.length; length++) {
    expect(readHello(hello.subarray(0, length)).kind).toBe("incomplete");
  }
  const parts = clientHello("files.test", { records: 5 });
  expect(readHello(parts)).toMatchObject({ name: "files.test", bytes: parts.length });
  expect(readHello(clientHello(null))).toMatchObject({ kind: "hello", name: null });
  expect(readHello(clientHello("a.test", { extra: [[ENCRYPTED, Buffer.alloc(8)]] }))).toMatchObject({
    encrypted: true,
  });
});

test("what is no ClientHello exactly is none", () => {
  const hello = clientHello("files.test");
  const changed = (at: number, value: number) => {
    const copy = Buffer.from(hello);
    copy[at] = value;
    return copy;
  };
  const name = Buffer.from("0009000006612e74657374", "hex");
  const twice = Buffer.concat([Buffer.from("0012", "hex"), name.subarray(2), name.subarray(2)]);
  const none = [
    Buffer.from("GET / HTTP/1.1\r\n"),
    Buffer.from("SSH-2.0-OpenSSH\r\n"),
    changed(0, 23),
    changed(1, 2),
    changed(5, 2),
    // A length within it that does not fit.
    changed(5 + 4 + 2 + 32, 0xff),
    clientHello("a.test", { extra: [[NAME, name]] }),
    clientHello(null, { extra: [[NAME, twice]] }),
    clientHello(null, { extra: [[NAME, Buffer.concat([name, Buffer.of(0)])]] }),
    clientHello(null, { extra: [[NAME, Buffer.alloc(0)]] }),
    clientHello("a.test", { trailing: Buffer.of(1, 2, 3) }),
    clientHello("a.test", { records: 9 }),
    clientHello("a.test", { extra: [[21, Buffer.alloc(40_000)]], records: 4 }),
  ];
  for (const [index, bytes] of none.entries())
    expect([index, readHello(bytes).kind]).toEqual([index, "other"]);
});

const isOurs = (sent: Buffer) => {
  const hello = readHello(sent);
  return hello.kind === "hello" && hello.name === "files.test" ? null : "another name";
};
const CHANGE = record(20, Buffer.of(1));
const EARLY = record(23, Buffer.from("early data"));
const KEY = record(22, Buffer.from("10000001ff", "hex"));

test("after a server's answer that asks for nothing more, all passes", () => {
  const watch = createWatch(isOurs);
  expect(watch.client(EARLY)).toEqual({ pass: EARLY, held: null });
  // Of TLS 1.2: the client speaks only then.
  expect(watch.client(KEY)).toMatchObject({ held: "now" });
  const answer = serverHello();
  expect(watch.server(answer.subarray(0, 20))).toMatchObject({ held: null });
  expect(watch.server(answer.subarray(20))).toEqual({ pass: KEY, held: "no more" });
  const other = clientHello("other.test");
  expect(watch.client(other)).toEqual({ pass: other, held: null });
});

test("where the server asks for a second ClientHello, it is judged like the first", () => {
  const asked = () => {
    const watch = createWatch(isOurs);
    expect(watch.client(Buffer.concat([EARLY, CHANGE]))).toMatchObject({ held: null });
    expect(watch.server(helloRetry())).toMatchObject({ held: null });
    return watch;
  };
  const good = clientHello("files.test");
  expect(asked().client(Buffer.concat([CHANGE, good, EARLY]))).toEqual({
    pass: Buffer.concat([CHANGE, good, EARLY]),
    held: null,
  });
  const bad = clientHello("other.test");
  expect(asked().client(Buffer.concat([CHANGE, bad]))).toEqual({ refuse: "another name" });
  expect(asked().client(KEY)).toMatchObject({ refuse: expect.any(String) });
  // In pieces, nothing of it passes before it is judged.
  const watch = asked();
  for (let at = 0; at < bad.length - 1; at++) {
    expect(watch.client(bad.subarray(at, at + 1))).toMatchObject({ pass: Buffer.alloc(0) });
  }
  expect(watch.client(bad.subarray(-1))).toEqual({ refuse: "another name" });
});

test("a second ClientHello that is sent before the server has spoken waits for what it says", () => {
  const watch = createWatch(isOurs);
  const bad = clientHello("other.test");
  expect(watch.client(bad)).toEqual({ pass: Buffer.alloc(0), held: "now" });
  expect(watch.server(helloRetry())).toEqual({ refuse: "another name" });
});
