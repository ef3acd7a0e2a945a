import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { startAppliance } from "../fixtures/appliance.ts";
import { startDnsServer } from "../fixtures/dns-server.ts";
import { FAR_NETWORK, startFarHost } from "../fixtures/far-host.ts";
import { sdkBin } from "../fixtures/sdk.ts";

setDefaultTimeout(60_000);

/* The built program, confined as it is, and receivers on another host. */
const repo = resolve(import.meta.dir, "../..");
const far = startFarHost();
const dns = { answer: [far.address] };
const server = await startDnsServer((name) => (name === "rebind.test" ? dns.answer : null), { port: 53 });
writeFileSync("/etc/resolv.conf", "nameserver 127.0.0.1\n");
const appliance = await startAppliance({
  config: `[webhooks]\nallow_http = true\nallow_private = ["${FAR_NETWORK}"]\n`,
});
const work = mkdtempSync("/tmp/webhooks-");
const receiver = await far.startReceiver();
const { received } = receiver;
afterAll(async () => {
  await appliance.stop();
  await server[Symbol.asyncDispose]();
  receiver.kill();
});

const { workspace_id: ws, admin_key: key } = appliance.keys;

async function ask(path: string, json: unknown, method = "POST") {
  const response = await appliance.call(`/v1/workspaces/${ws}/webhooks${path}`, {
    method,
    key,
    namespace: null,
    json,
  });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

const receivedLines = () => readFileSync(received, "utf8").split("\n").filter(Boolean).length;

test("a name that leads elsewhere after registration is not followed there", async () => {
  const made = await ask("", { url: "http://rebind.test:8000/hook", events: ["key.created"] });
  expect(made).toMatchObject({ status: 200 });
  const id = made.body["webhook_id"] as string;
  expect((await ask(`/${id}/test`, {})).body).toMatchObject({ ok: true, status: 200 });
  expect(receivedLines()).toBe(1);
  for (const [address, told] of [
    ["127.0.0.1", "The URL leads to a loopback address."],
    [far.near, "The URL leads to an address of this host itself."],
    ["169.254.169.254", "The URL leads to a link-local address."],
  ] as const) {
    dns.answer = [far.address, address];
    expect((await ask(`/${id}/test`, {})).body).toMatchObject({ ok: false, status: null, error: told });
  }
  expect(receivedLines()).toBe(1);
  dns.answer = [far.address];
  expect((await ask(`/${id}/test`, {})).body).toMatchObject({ ok: true });
  await ask(`/${id}`, undefined, "DELETE");
});

/** The code of docs/webhooks.md in one language. */
function example(language: string): string {
  const text = readFileSync(join(repo, "docs/webhooks.md"), "utf8");
  const code = new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, "ms").exec(text)?.[1];
  if (code === undefined) throw new Error(`docs/webhooks.md has no ${language}`);
  return code;
}

const languages = {
  python: { file: "hook.py", argv: [join(sdkBin(), "python")], port: 8001 },
  ts: { file: "hook.ts", argv: [process.execPath], port: 8002 },
};

for (const [language, { file, argv, port }] of Object.entries(languages)) {
  test(`docs/webhooks.md: the receiver in ${language} takes what is signed, and nothing else`, async () => {
    writeFileSync(join(work, file), example(language));
    if (language === "ts") symlinkSync(join(repo, "node_modules"), join(work, "node_modules"));
    const url = `http://${far.address}:${port}/`;
    const made = await ask("", { url, events: ["file.written"] });
    const id = made.body["webhook_id"] as string;
    const secret = made.body["signing_secret"] as string;
    const start = (secret: string) =>
      far.spawn([...argv, join(work, file)], {
        cwd: work,
        env: { SIGNING_SECRET: secret, HOST: far.address, PORT: String(port) },
      });
    const tested = async () => {
      for (;;) {
        const { body } = await ask(`/${id}/test`, {});
        // Not listening yet.
        if (body["status"] !== null) return body;
        await Bun.sleep(50);
      }
    };
    const right = start(secret);
    const answer = await tested();
    expect(answer).toMatchObject({ ok: true, status: 204 });
    await appliance.call("/write", { json: { path: "a.txt", content: "hello" } });
    const printed = right.stdout.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    while (!text.includes("file.written")) text += (await printed.read()).value ?? "";
    expect(text).toContain(answer["event_id"] as string);
    right.kill();
    await right.exited;

    const wrong = start("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    expect(await tested()).toMatchObject({ ok: false, status: 401 });
    wrong.kill();
    await wrong.exited;
    await ask(`/${id}`, undefined, "DELETE");
  });
}

test("the appliance's log has no secret and no query of a URL", async () => {
  const made = await ask("", {
    url: `http://${far.address}:8009/closed?token=swordfish`,
    events: ["file.written"],
  });
  await appliance.call("/write", { json: { path: "b.txt", content: "hello" } });
  await ask(`/${made.body["webhook_id"] as string}/test`, {});
  const log = await appliance.log();
  expect(log).toContain("/webhooks");
  expect(log).not.toContain("swordfish");
  expect(log).not.toContain("whsec_");
  await ask(`/${made.body["webhook_id"] as string}`, undefined, "DELETE");
});
