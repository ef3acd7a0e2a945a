import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import type { Chain } from "../../../src/audit/event.ts";
import { startCliApi, MAIN } from "../../fixtures/cli-api.ts";
import { draftOf } from "../../fixtures/log.ts";

setDefaultTimeout(60_000);

const { data, ledger, cofferdam, json, stop } = await startCliApi();
afterAll(() => stop());

const { workspace_id: chain } = (await json(["workspace", "create", "main"])) as { workspace_id: Chain };
await ledger.append(
  Array.from({ length: 30 }, (_, n) => draftOf(chain, n, { namespace: n % 3 === 0 ? "a" : "b" })),
);
await ledger.append([draftOf("appliance", 99, { type: "audit.broken", namespace: null })]);

const numbers = ({ events }: Record<string, unknown>) =>
  (events as { data: { n: number } }[]).map(({ data }) => data.n);

test("list: a table, newest first, that says how to go on", async () => {
  const { code, stdout, stderr } = await cofferdam(["event", "list", "--limit", "2"]);
  expect({ code, stdout }).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(
      /^TIME +TYPE +NAMESPACE +BY +WHAT\n20\S+ \S+  file\.written +b +- +n=29\n.*n=28\n$/,
    ),
  });
  const cursor = /--cursor (\S+)/.exec(stderr)![1]!;
  expect(numbers(await json(["event", "list", "--limit", "3", "--cursor", cursor]))).toEqual([27, 26, 25]);
  expect((await cofferdam(["event", "list", "--types", "snapshot.created"])).stdout).toBe(
    "There is no such event.\n",
  );
});

test("list: chosen by time, type, namespace and whose", async () => {
  expect(numbers(await json(["event", "list", "--namespace", "a", "--since", "1h"]))).toHaveLength(10);
  expect(numbers(await json(["event", "list", "--since", "now"]))).toEqual([]);
  const types = await json([
    "event",
    "list",
    "--types",
    "workspace.created,snapshot.*",
    "--workspace",
    "main",
  ]);
  expect(types["events"]).toMatchObject([{ type: "workspace.created" }]);
  expect(numbers(await json(["event", "list", "--appliance", "--types", "audit.broken"]))).toEqual([99]);
});

test("list: what is wrong is said in a line, with exit code 2", async () => {
  for (const [args, said] of [
    [["--since", "soon"], "--since wants"],
    [["--since", "2026-02-30"], "ISO 8601"],
    [["--limit", "0"], "1 to 1000"],
    [["--types", "file.writen"], "file.written"],
    [["--cursor", "x"], "next_cursor"],
    [["--appliance", "--namespace", "a"], "--appliance"],
  ] as const) {
    const { code, stderr } = await cofferdam(["event", "list", ...args]);
    expect([code, stderr]).toEqual([2, expect.stringContaining(said)]);
  }
});

test("tail: events as they come, as lines for a person or JSON, after those since a time", async () => {
  const start = (...args: string[]) =>
    Bun.spawn([process.execPath, MAIN, "event", "tail", ...args], {
      env: { PATH: process.env["PATH"], COFFERDAM_DATA: data },
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
  const lines = async (child: ReturnType<typeof start>, count: number) => {
    let text = "";
    for await (const piece of child.stdout) {
      text += new TextDecoder().decode(piece);
      if (text.split("\n").length > count) break;
    }
    child.kill("SIGINT");
    await child.exited;
    return text.trimEnd().split("\n");
  };
  const writing = setInterval(() => void ledger.append([draftOf(chain, 1000, { namespace: "live" })]), 50);
  const live = await lines(start("--namespace", "live"), 2);
  expect(live[0]).toMatch(/^20\S+ \S+  file\.written +live +- +n=1000$/);
  clearInterval(writing);
  const past = await lines(start("--json", "--since", "1h", "--namespace", "a"), 10);
  expect(past.map((line) => (JSON.parse(line) as { data: { n: number } }).data.n)).toEqual(
    Array.from({ length: 10 }, (_, n) => n * 3),
  );
  const own = await lines(start("--json", "--since", "1h", "--appliance", "--types", "audit.broken"), 1);
  expect(JSON.parse(own[0]!)).toMatchObject({ workspace_id: null, data: { n: 99 } });
});
