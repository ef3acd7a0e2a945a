import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { amount } from "../fixtures/amount.ts";
import { startAppliance } from "../fixtures/appliance.ts";
import { FAR_NETWORK, startFarHost } from "../fixtures/far-host.ts";
import { seededRandom } from "../fixtures/random.ts";

const KILLS = amount("WEBHOOK_KILLS", 15);
/** Of these kills, serve instead of api. */
const SERVE_EVERY = 3;
const CONFIG = `[exec]\npool = 0\n[webhooks]\nallow_http = true\nallow_private = ["${FAR_NETWORK}"]\n`;
const WRITERS = 4;
/** What a kill interrupted waits for its lease of a minute, what failed for its next attempts. */
const ARRIVAL_MS = 180_000;

const far = startFarHost();
const work = mkdtempSync("/scratch/webhooks-kills-");
/** Each a process of its own on another host, which keeps what it was sent. */
const receivers = [8000, 8001].map((port) => {
  const file = join(work, String(port));
  writeFileSync(file, "");
  return { url: `http://${far.address}:${port}/`, file, port };
});
const startReceivers = () =>
  Promise.all(
    receivers.map(async ({ port, file }) => {
      const script = join(import.meta.dir, "../fixtures/receiver-process.ts");
      const child = far.spawn([process.execPath, script, far.address, String(port), file]);
      await child.stdout.getReader().read();
      return child;
    }),
  );
const now = { appliance: await startAppliance({ config: CONFIG }), receivers: await startReceivers() };
afterAll(async () => {
  await now.appliance.stop();
  for (const child of now.receivers) child.kill();
});

interface FileWritten {
  readonly id: string;
  readonly data: { readonly path: string };
}

/** The bodies that a receiver was sent, by event, and how many came more than once. */
function arrivals(file: string) {
  const bodies = new Map<string, string>();
  let again = 0;
  for (const line of readFileSync(file, "utf8").split("\n").slice(0, -1)) {
    const { headers, body } = JSON.parse(line) as { headers: Record<string, string>; body: string };
    const id = headers["webhook-id"] ?? "";
    expect((JSON.parse(body) as FileWritten).id).toBe(id);
    const before = bodies.get(id);
    if (before !== undefined) {
      again++;
      expect(body).toBe(before);
    } else bodies.set(id, body);
  }
  return { bodies, again };
}

async function pidOfApi(): Promise<number> {
  for (let tries = 0; tries < 600; tries++) {
    try {
      return now.appliance.pid("api");
    } catch {
      await Bun.sleep(50);
    }
  }
  throw new Error("api was not started again within 30 s");
}

test("over kills of api and serve and a backlog, every acknowledged change arrives at each webhook, as the same event", async () => {
  const seed = Number(process.env["SEED"] ?? Date.now() % 2 ** 32);
  console.log(`seed ${seed}`);
  const random = seededRandom(seed);
  const { workspace_id: ws, admin_key: key } = now.appliance.keys;
  for (const { url } of receivers) {
    const json = { url, events: ["file.written"] };
    const made = await now.appliance.call(`/v1/workspaces/${ws}/webhooks`, { key, namespace: null, json });
    expect(made.status).toBe(200);
  }

  const acknowledged = new Set<string>();
  const writing = { on: true, sent: 0 };
  const writers = Array.from({ length: WRITERS }, async (_, writer) => {
    while (writing.on) {
      const path = `${writer}-${writing.sent++}.txt`;
      const answer = await now.appliance
        .call("/write", { namespace: `n${writer}`, json: { path, content: "hello" } })
        .catch(() => null);
      if (answer?.ok === true) acknowledged.add(path);
      else await Bun.sleep(20);
      await answer?.text().catch(() => "");
    }
  });
  const more = async () => {
    const enough = acknowledged.size + 20;
    while (acknowledged.size < enough) await Bun.sleep(20);
  };

  for (let n = 1; n <= KILLS; n++) {
    await more();
    await Bun.sleep(random.int(700));
    // Before the last, what is written waits for receivers that are away.
    if (n === KILLS) {
      for (const child of now.receivers) child.kill("SIGKILL");
      await Bun.sleep(300);
    }
    if (n % SERVE_EVERY === 0) {
      await now.appliance.stop("SIGKILL");
      now.appliance = await startAppliance({ config: CONFIG, data: now.appliance.data });
    } else process.kill(await pidOfApi(), "SIGKILL");
  }
  await more();
  writing.on = false;
  await Promise.all(writers);
  now.receivers = await startReceivers();

  const missing = () =>
    receivers.flatMap(({ file }) => {
      const events = [...arrivals(file).bodies.values()].map((body) => JSON.parse(body) as FileWritten);
      const got = new Set(events.map(({ data }) => data.path));
      return [...acknowledged].filter((path) => !got.has(`workspace/${path}`));
    });
  const started = performance.now();
  for (let left = missing(); left.length > 0; left = missing()) {
    if (performance.now() - started > ARRIVAL_MS) throw new Error(`never arrived: ${left.join(" ")}`);
    await Bun.sleep(1000);
  }
  // Those of changes that were made and not acknowledged.
  await Bun.sleep(1000);
  const [one, two] = receivers.map(({ file }) => arrivals(file));
  console.log(
    JSON.stringify({
      acknowledged: acknowledged.size,
      events: one?.bodies.size,
      again: [one?.again, two?.again],
    }),
  );
  expect(two?.bodies).toEqual(one?.bodies ?? new Map());
}, 900_000);
