import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createAdmitted } from "../../../src/gateway/admitted.ts";
import type { Grant, Lane } from "../../../src/gateway/grant.ts";
import type { LlmRecord } from "../../../src/gateway/journal.ts";
import { openJournals } from "../../../src/gateway/journals.ts";
import { credentialId, type CredentialId, type RunId } from "../../../src/ids.ts";
import type { LlmGrant, RunGrant } from "../../../src/protocol/gateway.ts";
import { newSealKey, publicKeyOf, sealTo } from "../../../src/protocol/seal.ts";
import { freePort } from "../../fixtures/free-port.ts";
import { makeRun, seal, sealLlmGrant } from "../../fixtures/run-grant.ts";
import { failureOf } from "../../fixtures/failure.ts";
import { until } from "../../fixtures/until.ts";

const quiet = { info() {}, warn() {}, error() {} };
const key = newSealKey();
const SECRET = "sk-ant-api03-the-real-one";
const BASE_URL = "https://api.test";
const place = { dir: "" };

beforeEach(() => {
  place.dir = mkdtempSync(join(tmpdir(), "admitted-"));
});
afterEach(() => rmSync(place.dir, { recursive: true }));

const RESERVED = { model: "m", route: "/v1/messages", input_tokens: 10, output_tokens: 100, usd_nano: 500 };

function cost(credential: CredentialId, usd_nano: number): LlmRecord {
  return {
    kind: "llm",
    credential,
    model: "m",
    route: "/v1/messages",
    status: 200,
    input_tokens: 10,
    output_tokens: 1,
    cache_read_tokens: 0,
    cache_write_tokens: 0,
    usd_nano,
    estimated: false,
    first_byte_ms: 1,
    duration_ms: 1,
    content: null,
  };
}

/** A lane for models that does what the path says, and one for git that keeps something until the run ends. */
function testLanes() {
  const seen: { secrets: unknown[]; ended: RunId[]; endFails: boolean } = {
    secrets: [],
    ended: [],
    endFails: false,
  };
  const llm: Lane = {
    async handle(request, grant) {
      const { credential } = grant.spec().llm[0] ?? { credential: credentialId.make() };
      seen.secrets.push(grant.secret(credential));
      const reserved = grant.journal.reserve({ credential, ...RESERVED });
      if (request.url.endsWith("/hang")) return hang(grant);
      grant.journal.settle(reserved, cost(credential, 7));
      return new Response(`spent ${grant.journal.spent(credential).usd_nano}`);
    },
  };
  const git: Lane = {
    async handle(_, grant) {
      await grant.journal.keep("git token", { sealed: "…" });
      return new Response("kept");
    },
    async end(journal) {
      if (seen.endFails) throw new Error("the server is away");
      seen.ended.push(journal.run);
      for (const name of journal.kept().keys()) journal.drop(name);
    },
  };
  return { seen, lanes: { llm, git } };
}

/** As a model that never answers: only the run's end ends it, and this lane then forgets to settle. */
function hang({ signal }: Grant): Promise<Response> {
  const { promise, resolve } = Promise.withResolvers<Response>();
  signal.addEventListener("abort", () => resolve(new Response("cut", { status: 502 })));
  return promise;
}

function start(port = freePort()) {
  const journals = openJournals({ dir: join(place.dir, "runs"), log: quiet });
  const { seen, lanes } = testLanes();
  const egress = { listen: () => ({ tunnels: () => 0, stop() {} }) };
  const admitted = createAdmitted({
    journals,
    privateKey: key,
    lanes,
    egress,
    port,
    log: quiet,
    settleMs: 50,
  });
  const ask = (
    token: string,
    path = "/v1/messages",
    init: { method?: string; headers?: Record<string, string> } = {},
  ) =>
    fetch(`http://127.0.0.1:${port}${path}`, {
      method: "POST",
      ...init,
      headers: { "x-api-key": token, ...init.headers },
    });
  return { port, journals, admitted, seen, ask };
}

const llmGrant = async (more: Partial<LlmGrant> = {}): Promise<LlmGrant> =>
  sealLlmGrant(publicKeyOf(key), SECRET, { base_url: BASE_URL, ...more });

const all = (run: RunId, timeout_ms = 0, seq = 0) => ({ start: null, after: [{ run, seq }], timeout_ms });

test("a run that is let in reaches its lane with its secret, and nobody without its token does", async () => {
  const { admitted, ask, seen } = start();
  const { token, spec } = makeRun({ llm: [await llmGrant()] });
  await admitted.grant(spec);
  expect(admitted.granted().runs).toEqual([spec.run]);
  expect(await (await ask(token)).text()).toBe("spent 7");
  expect(seen.secrets).toEqual([{ secret: SECRET, base_url: BASE_URL }]);
  const shown: Record<string, string>[] = [
    { authorization: `Bearer ${token}` },
    { authorization: `Basic ${btoa(`x:${token}`)}` },
  ];
  for (const headers of shown) expect((await ask("", "/v1/messages", { headers })).status).toBe(200);
  for (const wrong of ["", `${token}x`, token.slice(0, -1), spec.token_sha256, SECRET]) {
    const refused = await ask(wrong);
    expect(refused.status).toBe(401);
    expect(refused.headers.get("x-should-retry")).toBe("false");
    expect(await refused.json()).toMatchObject({ type: "error", error: { type: "authentication_error" } });
  }
  const git = await ask("wrong", "/git/github.com/a/b/info/refs", { method: "GET" });
  expect([git.status, git.headers.get("www-authenticate")]).toEqual([401, 'Basic realm="cofferdam"']);
  expect((await ask("wrong", "/", { method: "HEAD" })).status).toBe(200);
  expect((await ask("wrong", "/metrics", { method: "GET" })).status).toBe(401);
  expect(seen.secrets).toHaveLength(3);
  await admitted.stop();
});

test("a request that makes no sense is refused, and is nobody's fault but its own", async () => {
  const { admitted, port } = start();
  const { token, spec } = makeRun({ llm: [await llmGrant()] });
  await admitted.grant(spec);
  const answers = async (text: string) => {
    const { promise, resolve } = Promise.withResolvers<string>();
    let heard = "";
    const socket = await Bun.connect({
      hostname: "127.0.0.1",
      port,
      socket: {
        data: (_, chunk) => void (heard += chunk.toString()),
        close: () => resolve(heard),
      },
    });
    socket.write(text);
    return promise;
  };
  const head = `x-api-key: ${token}\r\nconnection: close\r\n\r\n`;
  for (const [line, status] of [
    [`GET /nothing HTTP/1.1\r\nhost: a b\r\n${head}`, 404],
    [`GET http:// HTTP/1.1\r\nhost: \r\n${head}`, 404],
    [`GET /v1/../git/x HTTP/1.1\r\nhost: x\r\n${head}`, 403],
  ] as const) {
    expect([line, await answers(line)]).toEqual([
      line,
      expect.stringMatching(new RegExp(`^HTTP/1.1 (${status}|400) `)),
    ]);
  }
  await admitted.stop();
});

test("a request from another address than the run's is refused, whatever it shows", async () => {
  const { admitted, ask, seen } = start();
  const { token, spec } = makeRun({ llm: [await llmGrant()], peer: "127.0.0.9" });
  await admitted.grant(spec);
  expect((await ask(token)).status).toBe(401);
  await admitted.grant({ ...spec, peer: "127.0.0.1" });
  expect((await ask(token)).status).toBe(200);
  expect(seen.secrets).toHaveLength(1);
  await admitted.revoke(spec.run);
  const [denied] = await admitted.records(all(spec.run));
  expect(denied).toMatchObject({ kind: "denied", lane: "llm", reason: "peer" });
  await admitted.stop();
});

test("a lane that was not granted is refused and told, in a form that its client shows", async () => {
  const { admitted, ask } = start();
  const { token, spec } = makeRun();
  await admitted.grant(spec);
  const llm = await ask(token);
  expect([llm.status, await llm.json()]).toMatchObject([403, { error: { type: "permission_error" } }]);
  const git = await ask(token, "/git/github.com/a/b/info/refs", { method: "GET" });
  expect([git.status, await git.text()]).toEqual([
    403,
    'This run may not reach a repository: it was started without "git".\n',
  ]);
  for (let more = 0; more < 50; more++) await ask(token);
  await admitted.revoke(spec.run);
  const denied = (await admitted.records(all(spec.run))).filter((one) => one.kind === "denied");
  expect(denied.map(({ lane, reason, count }) => [lane, reason, count])).toEqual([
    ["llm", "not granted", 1],
    ["git", "not granted", 1],
    ["llm", "not granted", 50],
  ]);
  await admitted.stop();
});

test("a secret that was sealed to another key, for another credential or for another place is not taken", async () => {
  const { admitted } = start();
  const good = await llmGrant();
  const foreign = await sealTo(publicKeyOf(newSealKey()), Buffer.from("{}"), good.credential);
  const refused: LlmGrant[] = [
    { ...good, sealed: Buffer.from(foreign).toString("base64") },
    { ...good, credential: credentialId.make() },
    { ...good, base_url: "https://thief.test" },
  ];
  for (const one of refused) {
    const failure = await admitted.grant(makeRun({ llm: [one] }).spec).catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: "bad_request" });
    expect(JSON.stringify(failure) + String((failure as Error).stack)).not.toContain(SECRET);
  }
  expect(admitted.granted().runs).toEqual([]);
  await admitted.grant(makeRun({ llm: [good] }).spec);
  await admitted.stop();
});

test("a revoked run's requests end, what they might have cost is settled, and its port is closed", async () => {
  const { admitted, ask, journals } = start();
  const grant = await llmGrant();
  const { token, spec } = makeRun({ llm: [grant] });
  await admitted.grant(spec);
  const hanging = ask(token, "/v1/hang").then(
    ({ status }) => status,
    () => "cut",
  );
  await until(() => journals.find(spec.run)?.open() === 1);
  await admitted.revoke(spec.run);
  expect(await hanging).toBe("cut");
  expect(await admitted.records(all(spec.run))).toMatchObject([
    { usd_nano: 500, estimated: true, status: null },
  ]);
  const refused = await ask(token).then(
    () => "answered",
    () => "refused",
  );
  expect(refused).toBe("refused");
  await admitted.revoke(spec.run);
  await admitted.stop();
});

test("a run's time ends what it has under way, and lets nothing more begin", async () => {
  const { admitted, ask } = start();
  const { token, spec } = makeRun({ llm: [await llmGrant()], deadline: Date.now() + 150 });
  await admitted.grant(spec);
  expect((await ask(token, "/v1/hang")).status).toBe(502);
  expect((await ask(token)).status).toBe(403);
  // More time is a matter of another grant.
  await admitted.grant({ ...spec, deadline: Date.now() + 60_000 });
  expect((await ask(token)).status).toBe(200);
  await admitted.stop();
});

test("after a kill of the gateway nobody is let in, and what was spent still counts once they are", async () => {
  const first = start();
  const grant = await llmGrant();
  const { token, spec } = makeRun({ llm: [grant] });
  await first.admitted.grant(spec);
  expect(await (await first.ask(token)).text()).toBe("spent 7");
  void first.ask(token, "/v1/hang").catch(() => {});
  await until(() => first.journals.find(spec.run)?.open() === 1);

  // As kill -9 leaves its files, while the first one still has its port.
  const second = start();
  const { start: before } = first.admitted.granted();
  expect(await failureOf(second.admitted.records({ ...all(spec.run), start: before }))).toBe(
    "the gateway has restarted",
  );
  expect(second.admitted.granted().runs).toEqual([]);
  await second.admitted.grant(spec);
  expect(await (await second.ask(token)).text()).toBe("spent 514");
  expect((await second.admitted.records(all(spec.run))).map((one) => one.seq)).toEqual([1, 2, 3]);
  await first.admitted.stop();
  await second.admitted.stop();
});

test("records are waited for, and come once", async () => {
  const { admitted, ask } = start();
  const { token, spec } = makeRun({ llm: [await llmGrant()] });
  await admitted.grant(spec);
  expect(await admitted.records(all(spec.run, 20))).toEqual([]);
  const waiting = admitted.records(all(spec.run, 60_000));
  await ask(token);
  expect((await waiting).map(({ seq }) => seq)).toEqual([1]);
  expect(await admitted.records(all(spec.run, 0, 1))).toEqual([]);
  // Nobody waits longer than the gateway lives.
  const last = admitted.records(all(spec.run, 60_000, 1));
  await admitted.stop();
  expect(await last).toEqual([]);
});

test("a record of a run that was let in meanwhile ends the wait, so that it is asked for", async () => {
  const { admitted, ask } = start();
  const waiting = admitted.records({ start: null, after: [], timeout_ms: 60_000 });
  const { token, spec } = makeRun({ llm: [await llmGrant()] });
  await admitted.grant(spec);
  await ask(token);
  expect(await waiting).toEqual([]);
  expect((await admitted.records(all(spec.run, 0))).map(({ seq }) => seq)).toEqual([1]);
  await admitted.stop();
});

test("a run's journal goes once api has it all and lanes have undone what they kept", async () => {
  const { admitted, ask, seen, journals } = start();
  const [credential, git_url] = [credentialId.make(), "https://git.test"];
  const sealed = await seal(publicKeyOf(key), credential, { secret: SECRET, git_url });
  const { token, spec } = makeRun({
    git: { credential, sealed, kind: "git-token", git_url, api_url: null, repositories: [] },
  });
  await admitted.grant(spec);
  expect(await (await ask(token, "/git/git.test/a/b", { method: "GET" })).text()).toBe("kept");
  seen.endFails = true;
  await admitted.revoke(spec.run);
  await admitted.forget(spec.run);
  expect(journals.find(spec.run)?.kept().size).toBe(1);
  expect(readdirSync(join(place.dir, "runs"))).toHaveLength(1);
  seen.endFails = false;
  await admitted.forget(spec.run);
  expect(seen.ended).toEqual([spec.run]);
  expect(readdirSync(join(place.dir, "runs"))).toEqual([]);
  await admitted.stop();
});

test("neither the secret nor the token is in any of the gateway's files", async () => {
  const { admitted, ask } = start();
  const { token, spec } = makeRun({ llm: [await llmGrant()] });
  await admitted.grant(spec satisfies RunGrant);
  await ask(token);
  await ask(`${token}x`);
  await ask(SECRET);
  await admitted.stop();
  const text = readdirSync(join(place.dir, "runs"))
    .map((name) => readFileSync(join(place.dir, "runs", name), "utf8"))
    .join("");
  // The control: it holds what was done.
  expect(text).toContain('"usd_nano":7');
  expect(text).not.toContain(SECRET);
  expect(text).not.toContain(token);
});
