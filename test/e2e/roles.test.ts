import { afterEach, expect, test } from "bun:test";
import { startAppliance, type Appliance } from "../fixtures/appliance.ts";
import { hostState } from "../fixtures/host-state.ts";
import { until } from "../fixtures/until.ts";

const running: Appliance[] = [];
afterEach(async () => {
  for (const appliance of running.splice(0)) await appliance.stop("SIGTERM");
});
async function start(config = "[exec]\npool = 1\n", data?: string): Promise<Appliance> {
  const appliance = await startAppliance(data === undefined ? { config } : { config, data });
  running.push(appliance);
  return appliance;
}

interface Outcome {
  readonly n: number;
  readonly status: number | "cut";
  readonly text: string;
}

/** 50 commands in flight over five namespaces, each of which can tell whose answer it got. */
function fiftyExecs(appliance: Appliance): Promise<Outcome>[] {
  return Array.from({ length: 50 }, async (_, n): Promise<Outcome> => {
    try {
      const answer = await appliance.call("/v1/exec", {
        namespace: `crowd-${n % 5}`,
        json: { command: `sleep 1; echo mine ${n}` },
      });
      return { n, status: answer.status, text: await answer.text() };
    } catch {
      return { n, status: "cut", text: "" };
    }
  });
}

function expectHonest(outcomes: Outcome[]): void {
  for (const { n, status, text } of outcomes) {
    if (status === "cut") continue;
    const body = JSON.parse(text) as { stdout?: string; exit_code?: number; detail?: string };
    if (status === 200) expect(body).toMatchObject({ exit_code: 0, stdout: `mine ${n}\n` });
    else {
      expect([429, 502, 503]).toContain(status);
      expect(body.detail?.length).toBeGreaterThan(10);
    }
  }
}

async function execWorks(appliance: Appliance, namespace = "after"): Promise<void> {
  await until(async () => {
    try {
      const answer = await appliance.call("/v1/exec", { namespace, json: { command: "echo back" } });
      return answer.ok && ((await answer.json()) as { stdout: string }).stdout === "back\n";
    } catch {
      return false;
    }
  });
}

test("kill -9 of api under load: no wrong answer, it comes back, nothing is left over", async () => {
  const appliance = await start();
  const before = appliance.pid("api");
  const acknowledged: string[] = [];
  for (let n = 0; n < 20; n++) {
    const answer = await appliance.call("/write", {
      namespace: "kept",
      json: { path: `f${n}`, content: `${n}` },
    });
    if (answer.ok) acknowledged.push(`f${n}`);
  }
  const execs = fiftyExecs(appliance);
  await Bun.sleep(500);
  process.kill(before, "SIGKILL");
  expectHonest(await Promise.all(execs));
  await execWorks(appliance);
  expect(appliance.pid("api")).not.toBe(before);
  const listed = (await (await appliance.call("/v1/files", { namespace: "kept" })).json()) as {
    entries: { name: string }[];
  };
  expect(listed.entries.map((entry) => entry.name).sort()).toEqual(acknowledged.sort());
  await appliance.stop();
  expect(hostState(appliance.inst)).toEqual([]);
});

test("kill -9 of serve, which is sandboxd, under load: the roles go with it, and it starts again on the same data", async () => {
  const appliance = await start();
  await appliance.call("/write", { namespace: "kept", json: { path: "a", content: "kept" } });
  const roles = [appliance.pid("api"), appliance.pid("gateway")];
  const execs = fiftyExecs(appliance);
  await Bun.sleep(500);
  await appliance.stop("SIGKILL");
  expectHonest(await Promise.all(execs));
  await until(() =>
    roles.every((pid) => {
      try {
        process.kill(pid, 0);
        return false;
      } catch {
        return true;
      }
    }),
  );
  const again = await start("[exec]\npool = 1\n", appliance.data);
  await execWorks(again);
  expect(await (await again.call("/files/a", { namespace: "kept" })).text()).toBe("kept");
  await again.stop();
  expect(hostState(again.inst)).toEqual([]);
});

test("serve that was killed and is started again at once waits for the roles that still end", async () => {
  const appliance = await start();
  const port = Number(new URL(appliance.keys.base_url).port);
  await appliance.stop("SIGKILL");
  const again = await startAppliance({ config: "[exec]\npool = 1\n", data: appliance.data, port });
  running.push(again);
  await execWorks(again);
  await again.stop();
  expect(hostState(again.inst)).toEqual([]);
});

test("kill -9 of gateway: it comes back, and nothing else notices", async () => {
  const appliance = await start();
  const before = { gateway: appliance.pid("gateway"), api: appliance.pid("api") };
  process.kill(before.gateway, "SIGKILL");
  await execWorks(appliance);
  await until(() => {
    try {
      return appliance.pid("gateway") !== before.gateway;
    } catch {
      return false;
    }
  });
  expect(appliance.pid("api")).toBe(before.api);
});

test("SIGHUP while the roles start ends none of them, and is heard by each", async () => {
  const appliance = await startAppliance({ config: "[exec]\npool = 1\n", ready: "api" });
  running.push(appliance);
  // gateway is started when api is ready.
  const hangUps = setInterval(() => process.kill(appliance.pid("serve"), "SIGHUP"), 5);
  await until(async () => {
    const log = await appliance.log();
    return ["api", "gateway"].every((role) =>
      new RegExp(`"role":"${role}","message":"configuration reloaded"`).test(log),
    );
  });
  clearInterval(hangUps);
  await execWorks(appliance);
  expect(await appliance.log()).not.toContain("a role died");
});

test("a graceful stop lets calls in flight finish and leaves nothing", async () => {
  const appliance = await start();
  const inFlight = appliance.call("/v1/exec", { json: { command: "sleep 3; echo finished" } });
  await until(async () => (await appliance.cofferdam(["status"])).stdout.includes("1 running"));
  const stopped = appliance.stop("SIGTERM");
  const late = () =>
    appliance.call("/v1/exec", { json: { command: "echo late" } }).then(
      (answer) => answer.status,
      () => "refused",
    );
  // From when the signal has arrived.
  await until(async () => [503, "refused"].includes(await late()));
  expect(((await (await inFlight).json()) as { stdout: string }).stdout).toBe("finished\n");
  expect(await stopped).toBe(0);
  expect(hostState(appliance.inst)).toEqual([]);
});

test("two instances side by side share nothing", async () => {
  const [one, two] = [await start(), await start()];
  expect(one.inst).not.toBe(two.inst);
  await Promise.all([execWorks(one, "same"), execWorks(two, "same")]);
  await one.call("/write", { namespace: "same", json: { path: "a", content: "one" } });
  expect((await two.call("/files/a", { namespace: "same" })).status).toBe(404);
  expect((await two.call("/v1/me", { key: one.keys.workspace_key })).status).toBe(401);
  await one.stop();
  await execWorks(two, "same");
});

async function failure(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => "nothing failed",
    (error: unknown) => String(error),
  );
}

test("a second serve on the same data is refused with a sentence", async () => {
  const appliance = await start();
  expect(await failure(appliance.cofferdam(["serve", "--listen", "127.0.0.1:0"]))).toMatch(
    /already|running|lock/i,
  );
  await execWorks(appliance);
});

test("a listen address beyond loopback is refused with a sentence", async () => {
  expect(await failure(startAppliance({ listen: "0.0.0.0:8080" }))).toMatch(/TLS|loopback/);
});
