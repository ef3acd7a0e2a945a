import { expect, test } from "bun:test";
import { z } from "zod";
import { readJson } from "../../../../src/api/http/body.ts";

const schema = z.object({ content: z.string() });
const read = (body: string) =>
  readJson(new Request("http://x", { method: "POST", body }), schema, 64 * 1024 * 1024);

test("a body of many values is refused without being parsed, wherever they are", async () => {
  const many = 100_000;
  for (const body of [
    `{"content":"x","y":[${"0,".repeat(many)}0]}`,
    `{"content":"\\\\","y":[${"[],".repeat(many)}0]}`,
  ]) {
    expect(await read(body).catch(String)).toBe("AppError: The body has more than 10000 values.");
  }
});

test("what a text holds are no values", async () => {
  const content = '[{,"\\"}]'.repeat(50_000);
  expect(await read(JSON.stringify({ content }))).toEqual({ content });
});

test("a body that is nested deeply is refused without being parsed", async () => {
  for (const deep of [33, 1000, 60_000, 1_000_000]) {
    for (const body of [
      "[".repeat(deep),
      `{"content":"x","y":${'{"z":'.repeat(deep)}0${"}".repeat(deep)}}`,
    ]) {
      expect(await read(body).catch(String)).toBe("AppError: The body is nested more than 32 levels deep.");
    }
  }
  expect(await read(`{"content":"x","y":${"[".repeat(31)}${"]".repeat(31)}}`)).toEqual({ content: "x" });
});

test("a field that is there twice is refused, however it is spelled and wherever it is", async () => {
  for (const body of [
    '{"content":"a","content":"b"}',
    '{"content":"a","content":"a"}',
    '{"content":"a","\\u0063ontent":"b"}',
    '{"content":"a","x":[{"y":{"z":1,"z":2}}]}',
    '{"content":"a","__proto__":1,"__proto__":2}',
    '{"content":"a","":1,"":2}',
    '{"content":"a","1":1,"1":2}',
  ]) {
    expect([body, await read(body).catch(String)]).toEqual([
      body,
      "AppError: An object in the body has a field twice.",
    ]);
  }
  for (const body of [
    '{"content":"a","x":{"content":"b"},"y":[{"content":1},{"content":2}]}',
    '{"content":"a","Content":"b","__proto__":{"content":1},"constructor":1,"toString":2,"length":3}',
    '{"content":"a","x":"{\\"content\\":\\"b\\",\\\\"}',
    ' \n{\t"content" : "a" , "1" : [ 1 , { } ] }\r\n',
  ]) {
    expect([body, await read(body)]).toEqual([body, { content: "a" }]);
  }
});

test("what is wrong with a field is said in words, and a schema's own go before ours", async () => {
  const fields = z.strictObject({
    kind: z.enum(["a", "b"]).optional(),
    text: z.string().min(1).max(3).optional(),
    list: z.array(z.string()).max(1).optional(),
    number: z.number().min(64).max(128).optional(),
    positive: z.number().positive().optional(),
    own: z.string().min(1, "wants a letter").optional(),
    named: z.record(z.string().regex(/^[a-z]*$/, "wants a name"), z.string()).optional(),
  });
  const said = (body: object) =>
    readJson(new Request("http://x", { method: "POST", body: JSON.stringify(body) }), fields).catch(
      (error: Error) => error.message,
    );
  expect(await said({ kind: "c" })).toBe('The field "kind": expected "a" or "b".');
  expect(await said({ text: "" })).toBe('The field "text": must not be empty.');
  expect(await said({ text: "four" })).toBe('The field "text": has more than 3 characters.');
  expect(await said({ list: ["x", "y"] })).toBe('The field "list": has more than 1 entries.');
  expect(await said({ number: 1 })).toBe('The field "number": is less than 64.');
  expect(await said({ number: 129 })).toBe('The field "number": is more than 128.');
  expect(await said({ positive: 0 })).toBe('The field "positive": must be more than 0.');
  expect(await said({ own: "" })).toBe('The field "own": wants a letter.');
  expect(await said({ named: { "1": "x" } })).toBe('The field "named.1": wants a name.');
  expect(await said({ number: "x" })).toBe('The field "number": expected a number.');
  expect(await said({ other: 1 })).toBe('The body: has no field "other".');
});
