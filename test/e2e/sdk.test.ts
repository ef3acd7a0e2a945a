import { afterAll, expect, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import { startAppliance } from "../fixtures/appliance.ts";
import { FAR_NETWORK, startFarHost } from "../fixtures/far-host.ts";
import { sdkBin } from "../fixtures/sdk.ts";

// The published SDK's own behaviour is driven from Python (test/e2e/sdk); each of its tests is reported here as one.
const bin = sdkBin();
const far = startFarHost();
const receiver = await far.startReceiver();
const { received } = receiver;
const appliance = await startAppliance({
  config: `[webhooks]\nallow_http = true\nallow_private = ["${FAR_NETWORK}"]\n`,
});
afterAll(async () => {
  await appliance.stop();
  receiver.kill();
});

const report = join(mkdtempSync("/tmp/sdk-"), "report.xml");
const pytest = Bun.spawn(
  [
    join(bin, "python"),
    "-m",
    "pytest",
    "-q",
    "-p",
    "no:cacheprovider",
    `--junitxml=${report}`,
    join(import.meta.dir, "sdk"),
  ],
  {
    env: {
      PATH: "/usr/bin:/bin",
      PYTHONDONTWRITEBYTECODE: "1",
      COFFERDAM_KEYS_FILE: appliance.keysFile,
      COFFERDAM_RECEIVER: `http://${far.address}:8000`,
      COFFERDAM_RECEIVED: received,
      COFFERDAM_NEAR: far.near,
    },
    stdout: "pipe",
  },
);
const output = await pytest.stdout.text();
await pytest.exited;
const xml = await Bun.file(report).text();

const cases = [
  ...xml.matchAll(/<testcase classname="([^"]*)" name="([^"]*)"[^>]*?(\/>|>[\s\S]*?<\/testcase>)/g),
];

test("pytest ran", () => {
  expect(cases.length, output).toBeGreaterThan(30);
});

for (const [, file, name, body] of cases) {
  test(`${file}: ${name}`, () => {
    expect(body?.includes("<failure") || body?.includes("<error") ? body : "").toBe("");
  });
}
