import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { requestOf, type RequestArgs } from "../../../src/cli/run-request.ts";
import { failureOf } from "../../fixtures/failure.ts";

const dir = mkdtempSync(join(tmpdir(), "request-"));
afterAll(() => rmSync(dir, { recursive: true }));

async function file(content: unknown): Promise<string> {
  const path = join(dir, `${Bun.randomUUIDv7()}.json`);
  await Bun.write(path, typeof content === "string" ? content : JSON.stringify(content));
  return path;
}

const asked = async (args: Partial<RequestArgs>, words: string[] = ["true"]) =>
  requestOf({ namespace: "bob", ...args }, words);

test("only what was said is asked for", async () => {
  expect(await asked({})).toEqual({ command: "true" });
  expect(await asked({}, ["echo", "a b"])).toEqual({ command: "echo 'a b'" });
  expect(await asked({ from: "snap-x", label: "l", "on-success": "merge", timeout: "5" })).toEqual({
    command: "true",
    worktree: { from: "snapshot", snapshot_id: "snap-x" },
    label: "l",
    on_success: "merge",
    limits: { timeout_s: 5 },
  });
  expect(await asked({ agent: "codex", prompt: "Do it.", llm: "own", models: "a, b" }, [])).toEqual({
    agent: { kind: "codex", prompt: "Do it." },
    llm: { credential: "own", models: ["a", "b"] },
  });
});

test("options go before the file's fields, and leave the others beside them", async () => {
  const request = await file({
    label: "l",
    limits: { cpus: 1, timeout_s: 9 },
    llm: { credential: "own", max_requests: 3 },
    agent: { kind: "codex", prompt: "Do it." },
  });
  expect(await asked({ request, timeout: "5", "max-usd": "2", prompt: "Do that." }, [])).toEqual({
    label: "l",
    limits: { cpus: 1, timeout_s: 5 },
    llm: { credential: "own", max_requests: 3, max_usd: 2 },
    agent: { kind: "codex", prompt: "Do that." },
  });
  const list = await file({ llm: [{ credential: "own" }] });
  expect(await asked({ request: list })).toEqual({ command: "true", llm: [{ credential: "own" }] });
});

test("what does not go together is told in the options' words", async () => {
  const list = await file({ llm: [{ credential: "own" }] });
  for (const [args, words, said] of [
    [{}, [], "Put the command after --, as: cofferdam run start bob -- "],
    [{ agent: "codex" }, [], "--agent wants --prompt TEXT"],
    [{ prompt: "x" }, ["true"], "say which by --agent KIND"],
    [{ models: "m" }, ["true"], "want --llm NAME"],
    [{ "max-usd": "2" }, ["true"], "want --llm NAME"],
    [{ "max-usd": "much" }, ["true"], '--max-usd wants a number, not "much"'],
    [{ request: list, llm: "other" }, ["true"], "the request has a list"],
    [{ request: join(dir, "none") }, ["true"], "none can't be read (ENOENT)"],
    [{ request: await file("[1") }, ["true"], "has to be a JSON object"],
    [{ request: await file("[]") }, ["true"], "has to be a JSON object"],
  ] as const) {
    expect(await failureOf(asked(args, [...words]))).toContain(said);
  }
});
