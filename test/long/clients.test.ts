import { afterAll, beforeAll, expect, test } from "bun:test";
import { connect, type Socket } from "node:net";
import { amount } from "../fixtures/amount.ts";
import { startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { footprints } from "../fixtures/footprint.ts";
import { halves } from "../fixtures/halves.ts";
import { hostState } from "../fixtures/host-state.ts";

/* Rude clients, each kind for a while beside a good one, whose every call must be answered right. */
const SECONDS = amount("CLIENTS_S", 100);
const CROWD = amount("CLIENTS", 100);
const MIB = 1024 * 1024;
const BIG = 20 * MIB;

let appliance: Appliance;
beforeAll(async () => {
  // The good client's own are never the ones that wait.
  appliance = await startAppliance({ config: "[exec]\npool = 1\nper_namespace = 16\nconcurrency = 64\n" });
  const put = await appliance.call("/files/big", { method: "PUT", body: new Uint8Array(BIG) });
  expect(put.status).toBe(200);
  await good(0);
});
afterAll(async () => {
  expect(await appliance.stop()).toBe(0);
  expect(hostState(appliance.inst)).toEqual([]);
});

/** One round of what a good client does. */
async function good(n: number): Promise<void> {
  const namespace = "good";
  const write = await appliance.call("/write", { namespace, json: { path: "a", content: `${n}` } });
  expect([write.status, await write.json()]).toEqual([
    200,
    { path: "workspace/a", size_bytes: `${n}`.length },
  ]);
  const exec = await appliance.call("/v1/exec", {
    namespace,
    json: { command: `cat workspace/a; echo " ${n}"` },
  });
  expect([exec.status, await exec.json()]).toMatchObject([200, { stdout: `${n} ${n}\n`, exit_code: 0 }]);
  const list = await appliance.call("/v1/files", { namespace });
  expect(((await list.json()) as { entries: unknown[] }).entries.length).toBe(1);
}

/** A connection on which the test says each byte; it counts what comes. */
function open(): Promise<Socket> {
  const { hostname, port } = new URL(appliance.keys.base_url);
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname, () => resolve(socket));
    socket.on("error", reject);
  });
}

function head(line: string, more: Record<string, string>): string {
  const headers = {
    Host: new URL(appliance.keys.base_url).host,
    Authorization: `Bearer ${appliance.keys.workspace_key}`,
    "X-Namespace": "rude",
    ...more,
  };
  return `${line} HTTP/1.1\r\n${Object.entries(headers)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join("")}`;
}

const rude: Record<string, (socket: Socket, n: number) => Promise<void> | void> = {
  "say nothing": () => {},
  "never end their headers": async (socket, n) => {
    socket.write(head("GET /v1/me", {}));
    for (let i = 0; !socket.destroyed && i < SECONDS; i++) {
      socket.write(`X-${n}-${i}: slow\r\n`);
      await Bun.sleep(1_000);
    }
  },
  "upload a byte at a time": async (socket, n) => {
    socket.write(`${head(`PUT /files/slow-${n}`, { "Content-Length": `${BIG}` })}\r\n`);
    while (!socket.destroyed) {
      socket.write("x");
      await Bun.sleep(100);
    }
  },
  "never read what they download": (socket) => {
    socket.pause();
    socket.write(`${head("GET /files/big", {})}\r\n`);
  },
  "hang up on loud commands": async (socket, n) => {
    const body = JSON.stringify({ command: "yes | head -c 9000000" });
    const request = `${head("POST /v1/exec", { "X-Namespace": `loud-${n % 4}`, "Content-Type": "application/json", "Content-Length": `${body.length}` })}\r\n${body}`;
    socket.write(request);
    await Bun.sleep(50 + ((n * 37) % 500));
    socket.destroy();
  },
};

for (const [what, act] of Object.entries(rude)) {
  test(
    `${CROWD} clients that ${what}`,
    async () => {
      const before = footprints(appliance).api;
      const end = performance.now() + (SECONDS / Object.keys(rude).length) * 1000;
      const sockets = new Set<Socket>();
      let made = 0;
      let rounds = 0;
      let mostMb = 0;
      async function client(): Promise<void> {
        while (performance.now() < end) {
          const socket = await open();
          sockets.add(socket);
          socket.on("error", () => {});
          made += 1;
          const closed = new Promise<void>((resolve) => socket.on("close", () => resolve()));
          await Promise.race([act(socket, made), Bun.sleep(Math.max(0, end - performance.now()))]);
          await Promise.race([closed, Bun.sleep(Math.max(0, end - performance.now()))]);
          socket.destroy();
          sockets.delete(socket);
        }
      }
      const crowd = Promise.all(Array.from({ length: CROWD }, client));
      while (performance.now() < end) {
        await good(++rounds);
        mostMb = Math.max(mostMb, footprints(appliance).api.memoryMb);
      }
      await crowd;
      for (const socket of sockets) socket.destroy();
      // All that they held is given back.
      let after = footprints(appliance).api;
      for (let tries = 0; tries < 100 && after.descriptors > before.descriptors + 8; tries++) {
        await Bun.sleep(100);
        after = footprints(appliance).api;
      }
      console.log(JSON.stringify({ clients: made, rounds, before, mostMb, after }));
      expect(rounds).toBeGreaterThan(0);
      expect(after.descriptors).toBeLessThanOrEqual(before.descriptors + 8);
      expect(mostMb - before.memoryMb).toBeLessThan(256);
      expect(halves(appliance.data)).toEqual([]);
    },
    (SECONDS + 120) * 1000,
  );
}
