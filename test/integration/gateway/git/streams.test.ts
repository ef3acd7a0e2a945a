import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FLUSH, packet } from "../../../../src/gateway/git/packets.ts";
import { freePort } from "../../../fixtures/free-port.ts";
import { startGitGateway } from "../../../fixtures/git-gateway.ts";
import { startGitServer } from "../../../fixtures/git-server.ts";
import { until } from "../../../fixtures/until.ts";

const ZERO = "0".repeat(40);
const ONE = "1".repeat(40);
const MIB = 1024 * 1024;

const root = mkdtempSync(join(tmpdir(), "git-server-"));
const server = startGitServer({ root });
const credential = { secret: "static", git_url: server.url };
const repositories = [{ name: "acme/app" }];
const gateway = startGitGateway({ credential, repositories });
const work = mkdtempSync(join(tmpdir(), "git-work-"));
const clone = join(work, "clone");

const push = (branch: string) =>
  Buffer.concat([
    packet(`${ZERO} ${ONE} refs/heads/agent/${branch}\0report-status side-band-64k`),
    FLUSH,
    Buffer.from("PACK"),
  ]);
const reportOf = (branch: string) => {
  const report = [packet("unpack ok\n"), packet(`ok refs/heads/agent/${branch}\n`), FLUSH];
  return Buffer.concat([packet("\u0001", ...report), FLUSH]);
};
const RESULT = { "content-type": "application/x-git-receive-pack-result" };

async function pushes() {
  const records = await gateway.records();
  return records.flatMap((one) => (one.kind === "git" && one.action === "push" ? [one] : []));
}

beforeAll(async () => {
  const path = server.create("acme/app");
  const dir = join(work, "first");
  mkdirSync(dir);
  await gateway.git(dir, "init", "--quiet");
  await gateway.git(dir, "commit", "--quiet", "--allow-empty", "-m", "first");
  await gateway.git(dir, "push", "--quiet", path, "main");
  await gateway.git(work, "clone", "--quiet", `${server.url}/acme/app`, clone);
});

afterAll(async () => {
  await gateway[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
});

describe("a pack passes through", () => {
  test("of some megabytes, which git probes first and then sends in chunks; and back", async () => {
    const noise = Buffer.concat(
      Array.from({ length: 8 * 16 }, () => Buffer.from(crypto.getRandomValues(new Uint8Array(65_536)))),
    );
    writeFileSync(join(clone, "large"), noise);
    await gateway.git(clone, "add", "large");
    await gateway.git(clone, "commit", "--quiet", "-m", "large");
    const asked = server.requests.length;
    const { code, err } = await gateway.git(clone, "push", "origin", "HEAD:agent/large");
    expect([code, err]).toEqual([0, expect.stringContaining("[new branch]")]);
    expect(
      server.requests
        .slice(asked)
        .map(({ method, headers }) => [
          method,
          headers.get("content-length") ?? headers.get("transfer-encoding"),
        ]),
    ).toEqual([
      ["GET", null],
      ["POST", "4"],
      ["POST", "chunked"],
    ]);
    expect((await pushes()).at(-1)?.bytes).toBeGreaterThan(noise.length);
    const back = join(work, "back");
    await gateway.git(work, "clone", "--quiet", "--branch=agent/large", `${server.url}/acme/app`, back);
    expect(Buffer.from(await Bun.file(join(back, "large")).bytes()).equals(noise)).toBe(true);
  });

  test("as it comes: each side waits for the other to have had the first of it", async () => {
    const arrived = Promise.withResolvers<void>();
    const returned = Promise.withResolvers<void>();
    server.refuseWith(async ({ body }) => {
      const reader = body?.getReader();
      await reader?.read();
      arrived.resolve();
      while ((await reader?.read())?.done === false);
      const report = reportOf("piecewise");
      return new Response(
        new ReadableStream({
          async start(controller) {
            controller.enqueue(packet("\u0002the first\n"));
            await returned.promise;
            controller.enqueue(report);
            controller.close();
          },
        }),
        { headers: RESULT },
      );
    });
    const body = new ReadableStream<Uint8Array>({
      async start(controller) {
        controller.enqueue(push("piecewise"));
        await arrived.promise;
        controller.enqueue(new Uint8Array(MIB));
        controller.close();
      },
    });
    const answer = await gateway.post("acme/app.git/git-receive-pack", body);
    const reader = answer.body?.getReader();
    const first = await reader?.read();
    expect(Buffer.from(first?.value ?? []).toString()).toContain("the first");
    returned.resolve();
    while ((await reader?.read())?.done === false);
    expect((await pushes()).at(-1)?.refs[0]).toMatchObject({
      ref: "refs/heads/agent/piecewise",
      accepted: true,
    });
  });

  test("to so many clients at once, and the next one after one of them has gone", async () => {
    const body = () => new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(MIB)) });
    server.refuseWith(
      () => new Response(body(), { headers: { "content-type": "application/x-git-upload-pack-result" } }),
    );
    const ask = () => gateway.post("acme/app.git/git-upload-pack", "0000");
    const held = await Promise.all(Array.from({ length: 16 }, ask));
    expect(new Set(held.map(({ status }) => status))).toEqual(new Set([200]));
    const refused = await ask();
    expect([refused.status, await refused.text()]).toEqual([429, expect.stringContaining("try again later")]);
    await held[0]?.body?.cancel();
    const next = await until(async () => {
      const answer = await ask();
      return answer.status === 200 ? answer : null;
    });
    for (const { body } of [...held.slice(1), next]) await body?.cancel();
  });

  test("and nothing of it is kept while the server takes none", async () => {
    await using slow = net.createServer((socket) => void socket.pause().on("error", () => undefined));
    await new Promise<void>((resolve) => slow.listen(0, "127.0.0.1", resolve));
    const { port } = slow.address() as net.AddressInfo;
    const stuck = startGitGateway({
      credential: { secret: "static", git_url: `http://127.0.0.1:${port}` },
      repositories,
    });
    const sent = { chunks: 0 };
    const chunk = new Uint8Array(MIB);
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        controller.enqueue(sent.chunks === 0 ? push("stuck") : chunk);
        sent.chunks += 1;
      },
    });
    const answer = stuck.post("acme/app.git/git-receive-pack", body).catch(() => null);
    // What is left is in the sockets' buffers.
    for (let before = -1; before !== sent.chunks || before === 0;) {
      before = sent.chunks;
      await Bun.sleep(300);
    }
    expect(sent.chunks).toBeLessThan(48);
    await stuck[Symbol.asyncDispose]();
    await answer;
  });
});

describe("what became of a push is known", () => {
  test("though its client left before it was told", async () => {
    const asked = Promise.withResolvers<void>();
    const gone = Promise.withResolvers<void>();
    server.refuseWith(async ({ body }) => {
      await new Response(body).bytes();
      return new Response(
        new ReadableStream({
          async start(controller) {
            controller.enqueue(packet("\u0002working\n"));
            asked.resolve();
            await gone.promise;
            controller.enqueue(reportOf("left"));
            controller.close();
          },
        }),
        { headers: RESULT },
      );
    });
    const leaving = new AbortController();
    const answer = fetch(`${gateway.url}/git/${gateway.host}/acme/app.git/git-receive-pack`, {
      method: "POST",
      headers: { authorization: "Bearer run-token" },
      body: push("left"),
      signal: leaving.signal,
    });
    await asked.promise;
    const reader = (await answer).body?.getReader();
    await reader?.read();
    leaving.abort();
    await Bun.sleep(50);
    gone.resolve();
    await until(async () => (await pushes()).at(-1)?.refs[0]?.ref === "refs/heads/agent/left");
    expect((await pushes()).at(-1)?.refs[0]?.accepted).toBe(true);
  });

  test("though its client left before there was an answer", async () => {
    const asked = Promise.withResolvers<void>();
    const gone = Promise.withResolvers<void>();
    server.refuseWith(async ({ body }) => {
      await new Response(body).bytes();
      asked.resolve();
      await gone.promise;
      return new Response(reportOf("early"), { headers: RESULT });
    });
    const leaving = new AbortController();
    const answer = fetch(`${gateway.url}/git/${gateway.host}/acme/app.git/git-receive-pack`, {
      method: "POST",
      headers: { authorization: "Bearer run-token" },
      body: push("early"),
      signal: leaving.signal,
    }).catch(() => null);
    await asked.promise;
    leaving.abort();
    await answer;
    await Bun.sleep(50);
    gone.resolve();
    await until(async () => (await pushes()).at(-1)?.refs[0]?.ref === "refs/heads/agent/early");
    expect((await pushes()).at(-1)?.refs[0]?.accepted).toBe(true);
  });

  test("when the server breaks off, to be unknown", async () => {
    server.refuseWith(async ({ body }) => {
      await new Response(body).bytes();
      return new Response("broken", { status: 502 });
    });
    const { err, code } = await gateway.git(clone, "push", "origin", "HEAD:agent/broken");
    // The advertisement is refused already.
    expect([code, err]).toEqual([128, expect.stringContaining("failed to answer (502)")]);
    const answer = await gateway.post("acme/app.git/git-receive-pack", push("broken"));
    const text = await answer.text();
    expect(answer.status).toBe(200);
    expect(text).toContain(`ng refs/heads/agent/broken unknown whether it was taken`);
    expect(text).toContain(`\u0002${gateway.host} failed to answer (502).`);
    expect((await pushes()).at(-1)?.refs[0]?.accepted).toBeNull();
  });

  test("when the gateway was killed in the middle, to be unknown", async () => {
    const asked = Promise.withResolvers<void>();
    server.refuseWith(async ({ body }) => {
      await new Response(body).bytes();
      asked.resolve();
      return new Promise<Response>(() => {});
    });
    await using first = startGitGateway({ credential, repositories });
    const answer = first.post("acme/app.git/git-receive-pack", push("lost")).catch(() => null);
    await asked.promise;
    await first.kill();
    await answer;
    const { dir, run, id } = first;
    await using second = startGitGateway({ credential, repositories }, { dir, run, id });
    second.ended.abort();
    await second.lane.end?.(second.journal);
    expect(await second.records()).toEqual([
      expect.objectContaining({
        action: "push",
        repository: "acme/app",
        refs: [{ ref: "refs/heads/agent/lost", old: ZERO, new: ONE, accepted: null }],
      }),
    ]);
    expect(second.journal.kept().size).toBe(0);
  });

  test("when the server was never reached, to be not taken", async () => {
    await using away = startGitGateway({
      credential: { secret: "static", git_url: `http://127.0.0.1:${freePort()}` },
      repositories,
    });
    const answer = await away.post("acme/app.git/git-receive-pack", push("away"));
    expect(await answer.text()).toContain("ng refs/heads/agent/away not taken");
    const [record] = await away.records();
    expect(record).toMatchObject({ refs: [{ accepted: false }], bytes: 0 });
  });

  test("by the end of its run, which cuts it", async () => {
    const asked = Promise.withResolvers<void>();
    server.refuseWith(async ({ body }) => {
      await new Response(body).bytes();
      asked.resolve();
      return new Promise<Response>(() => {});
    });
    await using ending = startGitGateway({ credential, repositories });
    const answer = ending.post("acme/app.git/git-receive-pack", push("cut")).catch(() => null);
    await asked.promise;
    ending.ended.abort();
    await ending.lane.end?.(ending.journal);
    expect(await ending.records()).toEqual([
      expect.objectContaining({ refs: [expect.objectContaining({ accepted: null })] }),
    ]);
    await answer;
  });
});

describe("a server's answer that git can't use", () => {
  const SECRET_PLACE = "http://127.0.0.1:1/elsewhere?token=abc";
  test.each<[string, () => Response, number, string]>([
    [
      "a redirect",
      () => Response.redirect(SECRET_PLACE, 301),
      502,
      "at another address (301), and no redirect",
    ],
    [
      "a login",
      () => new Response("", { status: 401 }),
      502,
      "does not take the credential of this run (401)",
    ],
    [
      "a refusal",
      () => new Response("<html>", { status: 403 }),
      403,
      "refuses this run's credential for acme/app",
    ],
    ["no such repository", () => new Response("", { status: 404 }), 404, "has no acme/app that this run's"],
    ["too many requests", () => new Response("", { status: 429 }), 429, "has too many requests"],
    ["a failure", () => new Response("<html>oops", { status: 500 }), 502, "failed to answer (500)"],
    [
      "a web page",
      () => new Response("<html>hello", { headers: { "content-type": "text/html" } }),
      502,
      "not git's",
    ],
  ])("%s is said in words", async (_, answer, status, why) => {
    server.refuseWith(answer);
    const shown = await gateway.get("acme/app.git/info/refs?service=git-upload-pack");
    const text = await shown.text();
    expect([shown.status, text]).toEqual([status, expect.stringContaining(why)]);
    expect(JSON.stringify([...shown.headers]) + text).not.toMatch(/elsewhere|html>|www-authenticate/);
    const { err } = await gateway.git(work, "ls-remote", `${server.url}/acme/app`);
    expect(err).toContain(`remote: ${gateway.host}`);
    const fetched = await gateway.post("acme/app.git/git-upload-pack", "0000");
    expect(await fetched.text()).toMatch(/^00..ERR 127\.0\.0\.1/);
  });
});

describe("what no git sends", () => {
  const refused = (body: string | Uint8Array<ArrayBuffer>, headers = {}) =>
    gateway.post("acme/app.git/git-receive-pack", body, headers);

  test("is refused without a word to the server", async () => {
    const asked = server.requests.length;
    const good = push("x");
    expect((await refused(good, { "content-encoding": "gzip" })).status).toBe(415);
    expect((await refused(Bun.gzipSync(good))).status).toBe(400);
    expect((await refused("0000PACK")).status).toBe(400);
    expect((await refused("")).status).toBe(415);
    const silent = packet(`${ZERO} ${ONE} refs/heads/agent/x\0agent=git/2`);
    expect((await refused(new Uint8Array(Buffer.concat([silent, FLUSH])))).status).toBe(400);
    const signed = packet("push-cert\0report-status side-band-64k");
    const answer = await refused(new Uint8Array(Buffer.concat([signed, packet("certificate\n"), FLUSH])));
    expect(await answer.text()).toContain("unpack this push is signed");
    expect(server.requests.slice(asked)).toEqual([]);
  });
});
