import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { StagedRun } from "../../../fixtures/run-stage.ts";
import { flushRuleset } from "../../../fixtures/flush-ruleset.ts";
import { until } from "../../../fixtures/until.ts";
import { PORT, sh, useIptables } from "../network/stage.ts";
import { box } from "./stage.ts";

/**
 * A run that waits for the moment in which its walls are gone: it calls a port of the host's again and again, and its
 * gateway's, and keeps one connection to that. sandboxd lives in this process, so while a test does not await anything
 * nobody looks after the walls, which is the control.
 */
const HOST_PORT = 8081;
const WAITS = (host: string) => `
import socket, time
def answers(port):
    try:
        socket.create_connection(("${host}", port), timeout=0.3).close()
        return "open"
    except OSError:
        return "shut"
kept = socket.create_connection(("${host}", ${PORT}), timeout=30)
log = open("/work/tries", "w", buffering=1)
while True:
    kept.sendall(b"x")
    print(answers(${HOST_PORT}), answers(${PORT}), kept.recv(1).decode(), file=log)
    time.sleep(0.05)
`;
/** In a process of their own: they answer while this one stands still. */
const SERVERS = `
for (const port of [${PORT}, ${HOST_PORT}])
  Bun.listen({ hostname: "0.0.0.0", port, socket: { data: (socket, bytes) => socket.write(bytes) } });
console.log("ready");
`;
let at: Awaited<ReturnType<typeof box>>;
let run: StagedRun;
let servers: Bun.Subprocess<"ignore", "pipe", "inherit">;

beforeAll(async () => {
  useIptables("nft");
  at = await box();
  servers = Bun.spawn([process.execPath, "-e", SERVERS], { stdout: "pipe" });
  await servers.stdout.getReader().read();
  run = await at.boot();
  await at.admit(run);
  const state = await at.client.call("inspectRun", { run: run.id });
  if (state.state !== "running") throw new Error(state.state);
  run.sh(`cat >/tmp/waits.py <<'END'\n${WAITS(state.network.host)}\nEND\npython3 /tmp/waits.py`);
}, 300_000);
afterAll(async () => {
  await at.client.call("stopRun", { run: run.id });
  await at.forget(run);
  servers.kill();
  expect(await at.end()).toEqual([]);
});

function tries(): string[] {
  const file = join(run.work, "tries");
  return existsSync(file) ? readFileSync(file, "utf8").split("\n").slice(0, -1) : [];
}

/** The next so many, without the one that is under way. */
async function nextTries(count: number): Promise<string[]> {
  const from = tries().length + 1;
  return await until(() => {
    const found = tries().slice(from);
    return found.length >= count && found;
  });
}

/** While nobody else does anything in this process. */
function standStillUntil(done: () => boolean): void {
  for (const end = Date.now() + 15_000; !done(); Bun.sleepSync(5))
    if (Date.now() > end) throw new Error(`it did not come to pass: ${tries().slice(-3).join(", ")}`);
}

const toHost = (found: readonly string[]) => new Set(found.map((line) => line.split(" ")[0]));

test.each([
  ["a flush of all rules", flushRuleset],
  [
    "rules before the walls",
    () =>
      sh(
        "iptables -t raw -I PREROUTING -j ACCEPT; iptables -I INPUT -j ACCEPT; iptables -I OUTPUT -j ACCEPT",
      ),
  ],
] as const)(
  "%s opens the host to a run until they are noticed, and no longer",
  async (_, breakWalls) => {
    expect(toHost(await nextTries(3))).toEqual(new Set(["shut"]));
    at.logged.length = 0;
    breakWalls();
    standStillUntil(() => tries().at(-1)?.startsWith("open") === true);
    await until(() => at.logged.join("").includes("runs' walls"));
    const after = await nextTries(5);
    expect(toHost(after)).toEqual(new Set(["shut"]));
    // Its way to the gateway is there again, and what it had with it has lasted.
    await until(() => tries().at(-1) === "shut open x");
  },
  60_000,
);

test("while walls can't be mended a run that goes on reaches nothing, and then its gateway again", async () => {
  const restore = "/usr/sbin/iptables-restore";
  sh(`mv ${restore} /tmp/; printf '#!/bin/sh\\nexit 1\\n' >${restore}; chmod 755 ${restore}`);
  flushRuleset();
  standStillUntil(() => tries().at(-1)?.startsWith("open") === true);
  await until(() => at.logged.join("").includes("runs are cut off"));
  // The connection that it keeps waits, so nothing more is written until the pair carries something again.
  sh(`mv -f /tmp/iptables-restore ${restore}`);
  const after = await nextTries(5);
  expect(toHost(after)).toEqual(new Set(["shut"]));
  expect(after.at(-1)).toBe("shut open x");
}, 60_000);
