import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { startCliApi } from "../../fixtures/cli-api.ts";
import { startReceiver } from "../../fixtures/receiver.ts";

// Each command is a process from source, and a test runs several of them.
setDefaultTimeout(60_000);

const { cofferdam, json, stop } = await startCliApi();
const receiver = startReceiver();
afterAll(async () => {
  await stop();
  await receiver.stop();
});
beforeAll(async () => {
  await cofferdam(["workspace", "create", "main"]);
});

test("create, list, test, rotate, disable, enable, delete", async () => {
  expect((await cofferdam(["webhook", "list"])).stdout).toMatch(/^The workspace has no webhook/);
  const made = await cofferdam(["webhook", "create", receiver.url, "--events", "key.created,file.*"]);
  expect(made.stdout).toMatch(/^whsec_\S+\n$/);
  const id = /wh-[a-z2-7]{16}/.exec(made.stderr)?.[0] ?? "";
  expect((await cofferdam(["webhook", "list"])).stdout).toMatch(
    new RegExp(
      `^WEBHOOK +URL +EVENTS .*\\n${id} +http://\\S+ +key.created,file.\\* +any +enabled +none yet\\n$`,
    ),
  );
  expect(await cofferdam(["webhook", "test", id])).toMatchObject({ code: 0, stdout: "It answered 200.\n" });
  receiver.behaviour.answer = () => new Response("no", { status: 503 });
  expect(await cofferdam(["webhook", "test", id])).toMatchObject({
    code: 1,
    stdout: "It failed: It answered 503.\n",
  });
  expect((await cofferdam(["webhook", "list"])).stdout).toContain("failed (503)");
  const rotated = await cofferdam(["webhook", "rotate", id]);
  expect(rotated.stdout).toMatch(/^whsec_\S+\n$/);
  expect(rotated.stderr).toMatch(/the one before is good until \S+ \S+ UTC;/);
  const leaked = await cofferdam(["webhook", "rotate", id, "--overlap-s", "0"]);
  expect(leaked.stdout).toMatch(/^whsec_\S+\n$/);
  expect(leaked.stderr).toContain("the one before signs no more;");
  expect((await cofferdam(["webhook", "disable", id])).stdout).toBe(`${id} is disabled.\n`);
  expect(await json(["webhook", "enable", id])).toMatchObject({ webhook_id: id, enabled: true });
  expect(await cofferdam(["webhook", "delete", id])).toMatchObject({ code: 2, stdout: "" });
  expect((await cofferdam(["webhook", "delete", id, "--yes"])).stdout).toBe(`${id} is deleted.\n`);
  expect(await cofferdam(["webhook", "test", id])).toMatchObject({ code: 1, stdout: "" });
});

test("what was sent, and sending it again", async () => {
  receiver.behaviour.answer = () => new Response("ok");
  receiver.received.length = 0;
  const { webhook_id: id } = (await json(["webhook", "create", receiver.url, "--events", "key.created"])) as {
    webhook_id: string;
  };
  await cofferdam(["key", "create", "one"]);
  await cofferdam(["key", "create", "two"]);
  await receiver.until((received) => received.length === 2);
  const [first = ""] = receiver.ids();
  const { stdout } = await cofferdam(["webhook", "deliveries", id]);
  expect(stdout.match(/key\.created +\S+ \S+ +(delivered|waiting) +1 /g)).toHaveLength(2);
  expect((await cofferdam(["webhook", "deliveries", id, "--state", "dead"])).stdout).toBe("There is none.\n");
  expect((await cofferdam(["webhook", "replay", id, first])).stdout).toBe(`${first} is sent again.\n`);
  expect((await cofferdam(["webhook", "replay", id, "--after", first])).stdout).toBe(
    "1 event is sent again.\n",
  );
  expect(await json(["webhook", "replay", id, "--since", "2026-01-01"])).toEqual({ queued: 2 });
  await receiver.until((received) => received.length === 6);
  expect(await json(["webhook", "replay", id, "--since", "1h", "--until", "30m"])).toEqual({ queued: 0 });
  expect((await cofferdam(["webhook", "replay", id, "--since", "1h", "--until", "noon"])).stderr).toContain(
    "--until wants",
  );
  const newest = await cofferdam(["webhook", "deliveries", id, "--limit", "1"]);
  const cursor = /--cursor (\S+)/.exec(newest.stderr)?.[1] ?? "";
  const older = await cofferdam(["webhook", "deliveries", id, "--limit", "1", "--cursor", cursor]);
  expect(newest.stdout).toContain("evt-");
  expect(older.stdout).toContain("evt-");
  expect(older.stdout).not.toBe(newest.stdout);
  const wrong = await cofferdam(["webhook", "replay", id]);
  expect(wrong).toMatchObject({ code: 2, stdout: "" });
  expect(wrong.stderr).toContain("Say what to send again");
});
