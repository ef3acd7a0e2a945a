import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { openDatabase } from "../../../src/db/open.ts";
import { seededRandom } from "../../fixtures/random.ts";
import { startReceiver } from "../../fixtures/receiver.ts";
import { startTestWebhooks } from "../../fixtures/webhooks.ts";

setDefaultTimeout(120_000);

const KILLS = 12;
const receiver = startReceiver();
afterAll(() => receiver.stop());

test("killed again and again in the middle of deliveries, it delivers every event to every endpoint, under one id", async () => {
  const seed = Number(process.env["SEED"] ?? Date.now());
  console.log(`SEED=${seed}`);
  const random = seededRandom(seed);
  const first = await startTestWebhooks();
  const urls = ["fast", "late"].map((name) => `${receiver.url}/${name}`);
  for (const url of urls) await first.create(url, { events: ["file.written"] });
  await first.close();
  // The one answers late, so that kills come while many are under way.
  receiver.behaviour.answer = async ({ path }) => {
    if (path === "/late") await Bun.sleep(60);
    return new Response("ok");
  };
  const acknowledged = join(first.dir, "acknowledged");
  await Bun.write(acknowledged, "");
  const start = async (round: number, perS: number) => {
    const script = join(import.meta.dir, "../../fixtures/webhook-process.ts");
    // Each is an hour later than the one before: the leases of that are over.
    const args = [
      join(first.dir, "cofferdam.db"),
      first.workspace,
      String(24 + round),
      String(perS),
      acknowledged,
    ];
    const child = Bun.spawn([process.execPath, script, ...args], { stdout: "pipe", stderr: "inherit" });
    await child.stdout.getReader().read();
    return child;
  };
  let killedUnderWay = 0;
  for (let round = 0; round < KILLS; round++) {
    const child = await start(round, 200);
    await Bun.sleep(100 + random.int(400));
    child.kill("SIGKILL");
    await child.exited;
    const db = await openDatabase(join(first.dir, "cofferdam.db"));
    const { rows } = await db.$client.execute(
      "SELECT count(*) AS n FROM deliveries WHERE state = 'waiting' AND attempts > 0",
    );
    killedUnderWay += Number(rows[0]?.["n"]);
    db.close();
  }
  expect(killedUnderWay).toBeGreaterThan(0);
  const last = await start(KILLS, 0);
  const ids = readFileSync(acknowledged, "utf8").split("\n").filter(Boolean);
  expect(ids.length).toBeGreaterThan(KILLS);
  const arrived = (path: string) =>
    new Set(receiver.received.filter((one) => one.path === path).map(({ headers }) => headers["webhook-id"]));
  await receiver.until(() => ["/fast", "/late"].every((path) => new Set(ids).isSubsetOf(arrived(path))));
  last.kill("SIGTERM");
  await last.exited;

  // What came twice came as the same event.
  const bodies = new Map<string, string>();
  for (const { headers, body } of receiver.received) {
    const id = headers["webhook-id"] ?? "";
    expect(bodies.get(id) ?? body).toBe(body);
    expect((JSON.parse(body) as { id: string }).id).toBe(id);
    bodies.set(id, body);
  }
});
