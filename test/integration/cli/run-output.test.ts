import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { RunRow } from "../../../src/cli/run-row.ts";
import { openInstance } from "../../../src/instance/instance.ts";
import { MAIN } from "../../fixtures/cli-api.ts";

setDefaultTimeout(60_000);

const RUN = {
  run_id: "run-abcdefghij",
  namespace: "test",
  status: "failed",
  label: null,
  exit_code: 7,
  error: null,
  created_at: "2026-11-27T00:00:00.000Z",
  started_at: "2026-11-27T00:00:00.000Z",
  finished_at: "2026-11-27T00:00:01.000Z",
  command: "true",
  agent: null,
  worktree: { from: "empty", state: "ready" },
  usage: {
    llm: { requests: 0, input_tokens: 0, output_tokens: 0, usd: 0 },
    git: { fetches: 0, pushes: 0 },
    egress: { connections: 0, bytes: 0 },
    peak_memory_mb: null,
    cpu_s: null,
  },
  usage_complete: true,
  denials: [],
} satisfies RunRow;

/** What the run writes: every byte there is, on both streams, and text. */
const every = Uint8Array.from({ length: 256 }, (_, byte) => byte);
const ENTRIES = Array.from({ length: 40 }, (_, n) => ({
  event: n % 3 === 0 ? "stderr" : "stdout",
  bytes: n % 2 === 0 ? Buffer.concat([Buffer.from([n]), every]) : Buffer.from(`line ${n} ä€😀\n`),
}));
const written = (...streams: string[]) =>
  Buffer.concat(ENTRIES.filter(({ event }) => streams.includes(event)).map(({ bytes }) => bytes)).toString(
    "latin1",
  );

/** How a connection goes: so many whole entries, and then it ends, breaks in the middle of the next, or has no more yet. */
interface Connection {
  readonly entries: number;
  readonly end: "clean" | "torn" | "none";
}

/** An api as the command line sees it. Its connections go as `script` says, the last of them whole; `run` is what it shows. */
function startApi(script: readonly Connection[], run: object = RUN) {
  const data = mkdtempSync("/scratch/cli-");
  writeFileSync(join(data, "inst"), "c11e\n");
  const instance = openInstance(data);
  const unix = instance.sockets.admin;
  mkdirSync(dirname(unix), { recursive: true });
  /** After which entry each connection began. */
  const begun: number[] = [];
  const restarts: Promise<void>[] = [];
  let looks = 0;
  /** What the run was given, and how much of each call it takes, until it takes all. */
  const fed = { calls: 0, bytes: Buffer.alloc(0), eof: false, takes: [3, 0] };

  const block = (seq: number): string => {
    const { event, bytes } = ENTRIES[seq - 1] ?? { event: "status", bytes: Buffer.from("over") };
    const text = bytes.toString();
    const base64 = Buffer.from(text).equals(bytes) ? {} : { text_base64: bytes.toBase64() };
    const json = JSON.stringify({ seq, at: "2026-11-27T00:00:00.000Z", text, ...base64 });
    return `id: ${seq}\nevent: ${event}\ndata: ${json}\n\n`;
  };

  async function restart(): Promise<void> {
    await server.stop(true);
    await Bun.sleep(50);
    server = serve();
  }

  function logs(request: Request): Response {
    const last = Number(request.headers.get("last-event-id"));
    if (last === ENTRIES.length) return new Response(null, { status: 204 });
    const { entries, end } = script[begun.length] ?? { entries: ENTRIES.length, end: "clean" };
    begun.push(last);
    const to = Math.min(last + entries, ENTRIES.length);
    const whole = Array.from({ length: to - last }, (_, n) => block(last + n + 1)).join("");
    const body = new ReadableStream({
      async start(controller) {
        controller.enqueue(whole);
        if (end === "clean") return controller.close();
        if (end === "none") return;
        controller.enqueue(block(to + 1).slice(0, 30));
        // Once that is with the client.
        await Bun.sleep(50);
        restarts.push(restart());
      },
    });
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  }

  async function feed(request: Request): Promise<Response> {
    const bytes = await request.bytes();
    fed.calls += 1;
    const written = fed.takes.shift() ?? bytes.length;
    fed.bytes = Buffer.concat([fed.bytes, bytes.subarray(0, written)]);
    if (written < bytes.length)
      return Response.json({ detail: "It reads nothing.", written }, { status: 503 });
    fed.eof = request.url.endsWith("?eof=true");
    return Response.json({ written, eof: fed.eof });
  }

  const serve = () =>
    Bun.serve({
      unix,
      fetch(request) {
        const { pathname } = new URL(request.url);
        if (pathname.endsWith("/stdin")) return feed(request);
        if (pathname.endsWith("/logs")) return logs(request);
        if (pathname === "/v1/runs") return Response.json(run, { status: 201 });
        if (pathname !== `/v1/runs/${RUN.run_id}`) {
          const main = { workspace_id: "ws-a", name: "main", created_at: RUN.created_at };
          return Response.json({ workspaces: [main] });
        }
        looks += 1;
        const isStopping = looks === 1;
        return isStopping
          ? Response.json({ detail: "It is stopping." }, { status: 503 })
          : Response.json(RUN);
      },
    });
  let server = serve();

  return {
    begun,
    fed,
    spawn: (args: readonly string[], stdin = new Blob()) =>
      Bun.spawn([process.execPath, MAIN, "run", ...args], {
        env: { PATH: process.env["PATH"], COFFERDAM_DATA: data },
        stdin,
        stdout: "pipe",
        stderr: "pipe",
      }),
    async run(...args: string[]) {
      const child = this.spawn(args);
      const [stdout, stderr, code] = await Promise.all([
        child.stdout.bytes(),
        child.stderr.bytes(),
        child.exited,
      ]);
      // Each byte a character.
      const shown = (bytes: Uint8Array) => Buffer.from(bytes).toString("latin1");
      return { stdout: shown(stdout), stderr: shown(stderr), code };
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(restarts);
      await server.stop(true);
    },
  };
}

const RESTARTS: readonly Connection[] = [
  { entries: 5, end: "clean" },
  { entries: 7, end: "torn" },
  { entries: 0, end: "clean" },
  { entries: 1, end: "torn" },
];

test("run start --follow shows every byte once, on its stream, over restarts, and exits as the run does", async () => {
  await using api = startApi(RESTARTS);
  const { stdout, stderr, code } = await api.run("start", "test", "--follow", "--", "true");
  expect(stdout).toBe(written("stdout"));
  const [started = "", ...rest] = stderr.split("\n");
  expect(started).toBe(`cofferdam: ${RUN.run_id} is started.`);
  const away = "cofferdam: the appliance is away; this goes on when it is back.\n";
  const said = rest.join("\n");
  expect(said.replaceAll(away, "")).toBe(
    `${written("stderr")}cofferdam: ${RUN.run_id}: failed, exit code 7\n`,
  );
  expect(said).toContain(away);
  expect(code).toBe(7);
  expect(api.begun).toHaveLength(RESTARTS.length + 1);
});

test.each(["logs --follow", "logs"])("run %s: both streams in their order, byte for byte", async (words) => {
  const script = RESTARTS.filter(({ entries }) => entries > 0);
  await using api = startApi(script);
  const { stdout, code } = await api.run(...words.split(" "), RUN.run_id);
  expect(stdout).toBe(written("stdout", "stderr"));
  expect(code).toBe(0);
  expect(api.begun).toHaveLength(script.length + 1);
});

test("run start --follow --json has the run alone on stdout", async () => {
  await using api = startApi([]);
  const { stdout, stderr, code } = await api.run("start", "test", "--follow", "--json", "--", "true");
  expect(JSON.parse(stdout)).toEqual(RUN as never);
  expect(stderr).toContain(written("stdout", "stderr"));
  expect(code).toBe(7);
});

test("Ctrl-C ends the watching, and says how the run is found again", async () => {
  await using api = startApi([{ entries: 2, end: "none" }]);
  const child = api.spawn(["start", "test", "--follow", "--", "true"]);
  const reader = child.stdout.getReader();
  expect((await reader.read()).done).toBe(false);
  child.kill("SIGINT");
  expect(await child.exited).toBe(130);
  const said = await child.stderr.text();
  expect(said).toContain(`cofferdam run logs --follow ${RUN.run_id}`);
  expect(said).toContain(`cofferdam run cancel ${RUN.run_id}`);
});

test.each([
  [["--eof"], true],
  [[], false],
])("run input %j gives all of it once, however slowly the run reads", async (args, eof) => {
  await using api = startApi([]);
  const bytes = Buffer.from(crypto.getRandomValues(new Uint8Array(60_000)));
  const child = api.spawn(["input", RUN.run_id, ...args], new Blob([bytes]));
  expect(await child.exited).toBe(0);
  expect(api.fed.bytes.equals(bytes)).toBe(true);
  expect(api.fed.eof).toBe(eof);
  expect(await child.stderr.text()).toContain("takes nothing just now");
});

test("run input of nothing asks the run all the same, which may be none", async () => {
  await using api = startApi([]);
  const child = api.spawn(["input", RUN.run_id], new Blob([]));
  expect(await child.exited).toBe(0);
  expect(api.fed.calls).toBe(1);
});

test("run logs of an appliance that is not there says so at once", async () => {
  const api = startApi([]);
  await api[Symbol.asyncDispose]();
  const { stderr, code } = await api.run("logs", "--follow", RUN.run_id);
  expect(stderr).toContain("is not running");
  expect(code).toBe(3);
});

test("an answer that it does not know is told as that", async () => {
  const { exit_code: _, ...older } = RUN;
  await using api = startApi([], older);
  const { stderr, code } = await api.run("start", "test", "--", "true");
  expect(stderr).toBe(
    'cofferdam: The appliance answered /v1/runs in a way that this command does not know ("exit_code" is not as it should be): restart the appliance if it was upgraded since it began.\n',
  );
  expect(code).toBe(1);
});
