import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createParser } from "eventsource-parser";
import { binary, startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { EMPTY, runCalls } from "../fixtures/run-calls.ts";
import { readEvents } from "../fixtures/sse.ts";
import { until } from "../fixtures/until.ts";

let appliance: Appliance;
const { startRun, over, bytesOf } = runCalls(() => appliance, EMPTY);
beforeAll(async () => {
  appliance = await startAppliance({ config: "[exec]\npool = 0\n" });
});
afterAll(async () => {
  await appliance.stop();
});

test("what a run writes is followed as it comes, and its bytes are its bytes", async () => {
  const id = await startRun({
    command: String.raw`echo out; sleep 0.3; echo err >&2; sleep 0.3; printf '\377\000\342\202'`,
  });
  const live = readEvents(await appliance.call(`/v1/runs/${id}/logs?follow=true`));
  await live.ending;
  expect(live.failures).toEqual([]);
  const told = live.messages.map(({ event, data }) => [event, (JSON.parse(data) as { text: string }).text]);
  const written = told.filter(([event]) => event !== "status");
  expect(written.slice(0, 2)).toEqual([
    ["stdout", "out\n"],
    ["stderr", "err\n"],
  ]);
  expect(told.filter(([event]) => event === "status")).toEqual([
    ["status", "running"],
    ["status", "succeeded, exit code 0"],
  ]);
  const rest = written.slice(2);
  expect(rest.map(([, text]) => text).join("")).toBe("\ufffd\0\ufffd");
  expect(await over(id)).toMatchObject({ status: "succeeded", exit_code: 0 });
  expect((await bytesOf(id)).toString("latin1")).toBe("out\nerr\n\xff\0\xe2\x82");
});

test("a run is fed by calls, to the end", async () => {
  const id = await startRun({ command: "sha256sum; echo and done", stdin_open: true });
  const bytes = crypto.getRandomValues(new Uint8Array(50_000));
  const post = (query: string, body: string | Uint8Array) =>
    appliance.call(`/v1/runs/${id}/stdin${query}`, { method: "POST", body });
  expect((await post("", bytes)).status).toBe(200);
  expect(await (await post("?eof=true", "the end")).json()).toEqual({ written: 7, eof: true } as never);
  expect(await over(id)).toMatchObject({ status: "succeeded" });
  const hash = new Bun.CryptoHasher("sha256").update(bytes).update("the end").digest("hex");
  expect((await bytesOf(id)).toString()).toBe(`${hash}  -\nand done\n`);
  expect((await post("", "late")).status).toBe(409);
});

test("a run is fed from the command line, more than a call takes", async () => {
  const id = await startRun({ command: "sha256sum", stdin_open: true });
  const text = "0123456789abcdef".repeat(160_000);
  await appliance.cofferdam(["run", "input", id], { stdin: text });
  await appliance.cofferdam(["run", "input", id, "--eof"], { stdin: "the end" });
  expect(await over(id)).toMatchObject({ status: "succeeded" });
  const hash = new Bun.CryptoHasher("sha256").update(text).update("the end").digest("hex");
  expect((await bytesOf(id)).toString()).toBe(`${hash}  -\n`);
  const late = await appliance.cofferdam(["run", "input", id], { stdin: "late", expect: 1 });
  expect(late.stderr).toContain("over");
});

test("whatever kills api and gateway, what runs write is complete, for who follows it too", async () => {
  const lines = 60_000;
  const id = await startRun({
    command: `for i in $(seq ${lines}); do echo "$i ä€😀"; [ $((i % 20)) = 0 ] && echo "$i" >&2; done; echo done`,
  });
  const heard = { stdout: "", stderr: "", last: "", seqs: [] as number[] };
  let kills = 0;
  const killing = (async () => {
    for (; kills < 3; kills++) {
      const before = heard.seqs.length;
      await until(() => heard.seqs.length > before + 3, 30_000);
      process.kill(appliance.pid(kills === 1 ? "gateway" : "api"), "SIGKILL");
    }
  })();
  await until(async () => {
    try {
      const headers: Record<string, string> = heard.last === "" ? {} : { "last-event-id": heard.last };
      const { body } = await appliance.call(`/v1/runs/${id}/logs?follow=true`, { headers });
      const parser = createParser({
        onEvent({ id = "", event, data }) {
          const { seq, text } = JSON.parse(data) as { seq: number; text: string };
          heard.last = id;
          heard.seqs.push(seq);
          if (event === "stdout" || event === "stderr") heard[event] += text;
        },
      });
      const decoder = new TextDecoder();
      for await (const chunk of body ?? []) parser.feed(decoder.decode(chunk, { stream: true }));
      return heard.stdout.endsWith("done\n");
    } catch {
      return false;
    }
  }, 60_000);
  await killing;
  expect(kills).toBe(3);
  expect(await over(id)).toMatchObject({ status: "succeeded", exit_code: 0 });
  const numbers = Array.from({ length: lines }, (_, index) => index + 1);
  expect(heard.stdout).toBe(`${numbers.map((n) => `${n} ä€😀\n`).join("")}done\n`);
  expect(heard.stderr).toBe(
    numbers
      .filter((n) => n % 20 === 0)
      .map((n) => `${n}\n`)
      .join(""),
  );
  expect(heard.seqs).toEqual(heard.seqs.map((_, index) => index + 1));
}, 120_000);

test("run start --follow has every byte, each stream's apart, over killed and stopped apis, and the exit code", async () => {
  // Bytes that are no text, with a number that the other stream has too; each part waits for a line.
  const command = String.raw`part() { for n in $(seq $1 $2); do printf '\377\000\342%d\r' $n; echo $n >&2; done; }
    part 1 400; read -r; part 401 800; read -r; part 801 1200; exit 9`;
  const args = ["--data", appliance.data, "--from", "empty", "--follow", "--request", "-", "--", command];
  const child = Bun.spawn([binary(), "run", "start", "test", ...args], {
    stdin: new Blob(['{"stdin_open": true}']),
    stdout: "pipe",
    stderr: "pipe",
  });
  const heard = { stdout: "", stderr: "" };
  const reading = (["stdout", "stderr"] as const).map(async (stream) => {
    for await (const piece of child[stream]) heard[stream] += Buffer.from(piece).toString("latin1");
  });
  const [id] = await until(() => /run-[a-z2-7]{10}/.exec(heard.stderr));
  const stops = [
    { after: 1, signal: "SIGKILL" },
    { after: 401, signal: "SIGTERM" },
  ] as const;
  for (const { after, signal } of stops) {
    await until(() => heard.stdout.includes(`\xe2${after}\r`), 30_000);
    const pid = appliance.pid("api");
    process.kill(pid, signal);
    await until(() => !existsSync(`/proc/${pid}`), 30_000);
    await until(async () => {
      const call = { method: "POST", body: "go on\n" };
      return (await appliance.call(`/v1/runs/${id}/stdin`, call).catch(() => null))?.ok === true;
    }, 30_000);
  }
  await Promise.all(reading);
  expect(await child.exited).toBe(9);
  const numbers = Array.from({ length: 1200 }, (_, index) => index + 1);
  expect(heard.stdout).toBe(numbers.map((n) => `\xff\0\xe2${n}\r`).join(""));
  const said = heard.stderr.split("\n").filter((line) => !line.startsWith("cofferdam: "));
  expect(said).toEqual([...numbers.map(String), ""]);
  expect(heard.stderr).toContain("cofferdam: the appliance is away");
}, 120_000);

test("its receipt holds without the appliance, and no longer once a byte of it is another", async () => {
  const id = await startRun({ command: "echo x >new; exit 4", label: "to be attested" });
  await over(id);
  const dir = mkdtempSync("/scratch/receipt-");
  const [file, pem] = [join(dir, "receipt.json"), join(dir, "key.pem")];
  writeFileSync(file, (await appliance.cofferdam(["receipt", "get", id])).stdout);
  const key = (await (await appliance.call("/v1/appliance/key")).json()) as {
    public_key: string;
    algorithm: string;
  };
  expect(key.algorithm).toBe("ed25519");
  writeFileSync(pem, key.public_key);
  expect((await appliance.cofferdam(["receipt", "key"])).stdout).toBe(key.public_key);
  const receipt = (await (await appliance.call(`/v1/runs/${id}/receipt`)).json()) as { payload: string };
  expect(await Bun.file(file).json()).toEqual(receipt as never);
  const verify = (...args: string[]) => {
    const { exitCode, stdout } = Bun.spawnSync([binary(), "receipt", "verify", ...args, "--key", pem], {
      cwd: "/",
    });
    return { exitCode, out: stdout.toString() };
  };
  expect(verify(file).out).toContain(`The receipt holds: ${id}`);
  const { payload } = JSON.parse(verify(file, "--json").out) as { payload: Record<string, unknown> };
  expect(payload).toMatchObject({
    run_id: id,
    workspace_id: appliance.keys.workspace_id,
    status: "failed",
    exit_code: 4,
    label: "to be attested",
    worktree: { from: "empty", result: expect.stringMatching(/^sha256:/), changes: 1 },
    sandbox: { runsc: expect.any(String), rootfs: expect.stringMatching(/^sha256:/) },
    audit: { before: { hash: expect.any(String) }, after: { hash: expect.any(String) } },
  });
  writeFileSync(file, JSON.stringify({ ...receipt, payload: receipt.payload.replace(":4", ":0") }));
  expect(verify(file).exitCode).toBe(1);
});
