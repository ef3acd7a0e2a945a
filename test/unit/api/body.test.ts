import { expect, test } from "bun:test";
import { z } from "zod";
import { readJson } from "../../../src/api/body.ts";

const schema = z.object({ content: z.string() });
const read = (body: string) =>
  readJson(new Request("http://x", { method: "POST", body }), schema, 64 * 1024 * 1024);

test("a body of many values is refused without being parsed, wherever they are", async () => {
  const many = 100_000;
  for (const body of [
    "[".repeat(many),
    `{"content":"x","y":[${"0,".repeat(many)}0]}`,
    `{"content":"x","y":${'{"z":'.repeat(many)}0${"}".repeat(many)}}`,
    `{"content":"\\\\","y":[${"[],".repeat(many)}0]}`,
  ]) {
    expect(await read(body).catch(String)).toBe("AppError: The body has more than 10000 values.");
  }
});

test("what a text holds are no values", async () => {
  const content = '[{,"\\"}]'.repeat(50_000);
  expect(await read(JSON.stringify({ content }))).toEqual({ content });
});
