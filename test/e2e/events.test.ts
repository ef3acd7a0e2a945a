import { afterAll, expect, test } from "bun:test";
import { binary, startAppliance } from "../fixtures/appliance.ts";
import { until } from "../fixtures/until.ts";

const appliance = await startAppliance({ config: "[exec]\npool = 0\n" });
afterAll(() => appliance.stop());

/** Writes until it is acknowledged; a file that was written twice is two events. */
async function write(n: number): Promise<void> {
  for (;;) {
    const answer = await appliance
      .call("/write", { json: { path: `${n}.txt`, content: "x" } })
      .catch(() => null);
    if (answer?.ok === true) return;
    await Bun.sleep(50);
  }
}

test("tail goes on over kill -9 of api: in the log's order, every event once", async () => {
  const tail = Bun.spawn(
    [binary(), "event", "tail", "--json", "--types", "file.written", "--data", appliance.data],
    {
      env: { PATH: "/usr/bin:/bin" },
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    },
  );
  const lines: string[] = [];
  const reading = (async () => {
    let rest = "";
    for await (const piece of tail.stdout) {
      const parts = (rest + new TextDecoder().decode(piece)).split("\n");
      rest = parts.pop() ?? "";
      lines.push(...parts);
    }
  })();
  let next = 0;
  while (lines.length === 0) await write(next++);
  const first = (JSON.parse(lines[0]!) as { seq: number }).seq;
  for (let kill = 0; kill < 3; kill++) {
    for (let n = 0; n < 20; n++) await write(next++);
    process.kill(appliance.pid("api"), "SIGKILL");
    for (let n = 0; n < 20; n++) await write(next++);
  }
  await write(next);
  const isLast = (line: string) =>
    (JSON.parse(line) as { data: { path: string } }).data.path === `workspace/${next}.txt`;
  await until(() => isLast(lines.at(-1)!), 60_000);
  tail.kill("SIGINT");
  await reading;

  const { stdout } = await appliance.cofferdam([
    "event",
    "list",
    "--json",
    "--types",
    "file.written",
    "--limit",
    "1000",
  ]);
  const { events } = JSON.parse(stdout) as { events: { id: string; seq: number }[] };
  const logged = events.toReversed().filter(({ seq }) => seq >= first);
  expect(lines.map((line) => (JSON.parse(line) as { id: string }).id)).toEqual(logged.map(({ id }) => id));
  expect(lines.length).toBeGreaterThan(120);
  expect(await tail.stderr.text()).toContain("is away");
}, 120_000);
