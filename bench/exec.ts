import type { Appliance } from "../test/fixtures/appliance.ts";
import type { Peers } from "./peers.ts";
import { interleaved, summary, together, type Summary } from "./stats.ts";

async function exec(appliance: Appliance, namespace: string, command: string): Promise<void> {
  const answer = await appliance.call("/v1/exec", { namespace, json: { command } });
  const body = (await answer.json()) as { exit_code?: number; detail?: string };
  if (body.exit_code !== 0) throw new Error(`exec of ${command}: ${answer.status} ${JSON.stringify(body)}`);
}

const COMMANDS: Record<string, string[]> = {
  true: ["/bin/true"],
  "echo hi": ["/bin/bash", "-c", "echo hi"],
  "python3 -c pass": ["/usr/bin/python3", "-c", "pass"],
};

/** One call every 100 ms, as an agent makes them, each beside the same command done another way. */
export async function warmExec(appliance: Appliance, peers: Peers, rounds: number): Promise<Summary[]> {
  const rows: Summary[] = [];
  for (const [command, argv] of Object.entries(COMMANDS)) {
    rows.push(
      ...(await interleaved(
        {
          [`${command}: HTTP exec, warm`]: () => exec(appliance, "bench", command),
          [`${command}: runsc exec`]: () => peers.runscExec(argv),
          [`${command}: bwrap --unshare-all`]: () => peers.bwrap(argv),
          [`${command}: bash -c on the host`]: () => peers.bash(command),
        },
        { rounds, pauseMs: 100 },
      )),
    );
  }
  return rows;
}

export async function backToBack(appliance: Appliance, total: number): Promise<Summary[]> {
  const rows: Summary[] = [];
  for (const command of Object.keys(COMMANDS)) {
    for (const width of [1, 8])
      rows.push(
        await together(`${command}: back to back, ${width} at a time`, width, total, () =>
          exec(appliance, "bench", command),
        ),
      );
  }
  return rows;
}

/** The first command of a namespace: with a booted sandbox waiting, with none, and a cold `runsc run` beside. */
export async function firstExec(
  appliance: Appliance,
  peers: Peers,
  rounds: number,
  pool: number,
): Promise<Summary[]> {
  const filled: number[] = [];
  const empty: number[] = [];
  const cold: number[] = [];
  const timed = async (times: number[], run: () => Promise<void>) => {
    const start = performance.now();
    await run();
    times.push(performance.now() - start);
  };
  for (let round = 0; round < rounds; round++) {
    await poolReady(appliance, pool);
    await timed(filled, () => exec(appliance, `first-${round}`, "echo hi"));
    await timed(cold, () => peers.runscRun(["/bin/bash", "-c", "echo hi"]));
    await poolReady(appliance, pool);
    await Promise.all(Array.from({ length: pool }, (_, n) => exec(appliance, `drain-${round}-${n}`, "true")));
    await timed(empty, () => exec(appliance, `empty-${round}`, "echo hi"));
  }
  return [
    summary({ name: "echo hi: first in a namespace, pool filled", times: filled }),
    summary({ name: "echo hi: first in a namespace, pool empty", times: empty }),
    summary({ name: "echo hi: cold runsc run", times: cold }),
  ];
}

async function poolReady(appliance: Appliance, pool: number): Promise<void> {
  for (let tries = 0; tries < 300; tries++) {
    const status = JSON.parse((await appliance.cofferdam(["status", "--json"])).stdout) as {
      sandboxes: { pool: { ready: number } };
    };
    if (status.sandboxes.pool.ready >= pool) return;
    await Bun.sleep(100);
  }
  throw new Error("the pool did not fill in 30 s");
}

/** How the warm call's latency grows with the number of warm sandboxes beside it. */
export async function crowd(appliance: Appliance, sizes: number[], rounds: number): Promise<Summary[]> {
  const rows: Summary[] = [];
  let warm = 0;
  for (const size of sizes) {
    for (; warm < size; warm++) await exec(appliance, `crowd-${warm}`, "true");
    let next = 0;
    rows.push(
      ...(await interleaved(
        {
          [`echo hi: ${size} warm sandboxes, in turn`]: () =>
            exec(appliance, `crowd-${next++ % size}`, "echo hi"),
        },
        { rounds, pauseMs: 50 },
      )),
    );
  }
  return rows;
}
