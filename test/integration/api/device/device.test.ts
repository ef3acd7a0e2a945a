import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { startApi, type TestApi } from "../../../fixtures/api.ts";
import { formOf } from "../../../fixtures/form.ts";

let api: TestApi;
let ws: string;
let admin: string;
let unlocked: string;

beforeEach(async () => {
  api = await startApi();
  const first = (await (await api.admin("/admin/setup", { method: "POST" })).json()) as Record<
    string,
    string
  >;
  [ws, admin, unlocked] = [first["workspace_id"]!, first["admin_key"]!, first["workspace_key"]!];
});
afterEach(async () => {
  await api.stop();
  api.remove();
});

interface Started {
  device_code: string;
  user_code: string;
  verification_uri: string;
  verification_uri_complete: string;
  interval: number;
  expires_in: number;
}

const base = () => `http://127.0.0.1:${api.port}`;
const start = async (headers: Record<string, string> = {}) =>
  (await (await api.call("/v1/auth/device/start", { method: "POST", headers })).json()) as Started;
const poll = async (started: Started) => {
  const response = await api.call("/v1/auth/device/poll", { json: { device_code: started.device_code } });
  return { code: response.status, ...((await response.json()) as { status?: string; api_key?: string }) };
};

/** As a browser sends the form of this page. */
function send(fields: Record<string, string>, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(`${base()}/device`, {
    method: "POST",
    headers: { origin: base(), "sec-fetch-site": "same-origin", ...headers },
    body: new URLSearchParams(fields),
  });
}

const look = (started: Started, key = admin) => send({ user_code: started.user_code, admin_key: key });
/** The second step's hidden and preset fields. */
const shown = async (started: Started) => formOf(await (await look(started)).text());

describe("the calls of a program", () => {
  test("a start says all that the client needs, is not kept, and names the host that was called", async () => {
    const response = await api.call("/v1/auth/device/start", { method: "POST" });
    expect(response.status).toBe(200);
    expect(response.headers.get("cache-control")).toBe("no-store");
    const started = (await response.json()) as Started;
    expect(started).toEqual({
      device_code: expect.stringMatching(/^[A-Za-z0-9_-]{43}$/),
      user_code: expect.stringMatching(/^[B-DF-HJ-NP-TV-XZ]{4}-[B-DF-HJ-NP-TV-XZ]{4}$/),
      verification_uri: `${base()}/device`,
      verification_uri_complete: `${base()}/device?user_code=${started.user_code}`,
      interval: 2,
      expires_in: 600,
    });
    const named = await start({ host: "files.example.org" });
    expect(named.verification_uri).toBe("http://files.example.org/device");
    for (const host of ["a/b", "a b", "x@evil.example", 'x"><script>', "a, b"]) {
      const refused = await api.call("/v1/auth/device/start", { method: "POST", headers: { host } });
      expect(refused.status).toBe(400);
    }
  });

  test("a poll at once again is too fast, and says when; a wrong code is expired, a wrong body 422", async () => {
    const started = await start();
    expect(await poll(started)).toEqual({ code: 200, status: "pending" });
    const fast = await api.call("/v1/auth/device/poll", { json: { device_code: started.device_code } });
    expect([fast.status, fast.headers.get("retry-after")]).toEqual([429, "2"]);
    expect(await poll({ ...started, device_code: "A".repeat(43) })).toEqual({ code: 200, status: "expired" });
    for (const json of [{}, { device_code: 1 }, []]) {
      expect((await api.call("/v1/auth/device/poll", { json })).status).toBe(422);
    }
  });

  test("an approval by the API grants what it says, bound to what was shown", async () => {
    const started = await start({ "user-agent": "python-httpx/0.28" });
    const path = `/v1/workspaces/${ws}/logins/${started.user_code.toLowerCase()}`;
    const login = (await (await api.call(path, { key: admin })).json()) as Record<string, string>;
    expect(login).toEqual({
      login_id: expect.stringMatching(/^login-[a-z2-7]{16}$/),
      client: "python-httpx/0.28",
      address: "127.0.0.1",
      created_at: expect.stringMatching(/Z$/),
      expires_at: expect.stringMatching(/Z$/),
      binding: expect.stringMatching(/^[0-9a-f]{64}$/),
    });
    const approve = (json: object) => api.call(`${path}/approve`, { key: admin, json });
    expect((await approve({ binding: "0".repeat(64) })).status).toBe(409);
    expect((await approve({})).status).toBe(422);
    expect((await approve({ binding: login["binding"], namespace: "../up" })).status).toBe(422);
    expect((await approve({ binding: login["binding"], Namespace: "alice" })).status).toBe(422);
    const approved = await approve({ binding: login["binding"], namespace: "alice" });
    expect(await approved.json()).toEqual({
      approved: login["login_id"],
      workspace_id: ws,
      namespace: "alice",
    });
    const { status, api_key } = await poll(started);
    expect(status).toBe("approved");
    expect(await (await api.call("/v1/me", { key: api_key! })).json()).toMatchObject({
      workspace_id: ws,
      scope: "workspace",
      namespace: "alice",
      key_name: "trove login from 127.0.0.1",
    });
    expect((await approve({ binding: login["binding"] })).status).toBe(404);
  });

  test("a denial by the API is told to the program", async () => {
    const started = await start();
    const path = `/v1/workspaces/${ws}/logins/${started.user_code}`;
    const { binding } = (await (await api.call(path, { key: admin })).json()) as { binding: string };
    expect((await api.call(`${path}/deny`, { key: admin, json: { binding } })).status).toBe(200);
    expect(await poll(started)).toEqual({ code: 200, status: "denied" });
  });

  test("only an admin key of the workspace may look or answer, and only the operator lists", async () => {
    const started = await start();
    const path = `/v1/workspaces/${ws}/logins/${started.user_code}`;
    const other = `/v1/workspaces/ws-aaaaaaaaaaaaaaaa/logins/${started.user_code}`;
    const tries: [string, string | undefined, number][] = [
      [path, unlocked, 403],
      [path, undefined, 401],
      [path, "trove-sk-admin-none", 401],
      [other, admin, 403],
      [path, admin, 200],
    ];
    for (const [at, key, status] of tries) {
      const asked = key === undefined ? {} : { key };
      expect((await api.call(at, asked)).status).toBe(status);
      const json = { binding: "x" };
      for (const verb of ["approve", "deny"]) {
        expect((await api.call(`${at}/${verb}`, { ...asked, json })).status).toBe(
          status === 200 ? 409 : status,
        );
      }
    }
    expect((await api.call("/admin/logins", { key: admin })).status).toBe(404);
    const listed = await (await api.admin("/admin/logins")).text();
    expect(listed).toContain("127.0.0.1");
    expect(listed).not.toContain(started.user_code);
    expect((await api.admin("/admin/logins", { key: admin })).status).toBe(403);
  });
});

describe("the page", () => {
  test("approves for the workspace in two steps, keeps nothing, and never shows the key", async () => {
    const started = await start();
    const first = await fetch(started.verification_uri_complete);
    expect(formOf(await first.text())).toEqual({ user_code: started.user_code, admin_key: "" });
    const second = await look(started);
    const text = await second.text();
    expect(second.status).toBe(200);
    for (const part of [started.user_code, "127.0.0.1", ws]) expect(text).toContain(part);
    const form = formOf(text);
    expect(form).toMatchObject({ grant: "workspace", namespace: "" });
    const third = await send({ ...form, answer: "approve" });
    const done = await third.text();
    expect([third.status, done]).toEqual([200, expect.stringContaining("Approved")]);
    for (const response of [first, second, third]) {
      expect(response.headers.get("set-cookie")).toBeNull();
      expect(response.headers.get("cache-control")).toBe("no-store");
    }
    for (const page of [text, done]) expect(page).not.toContain(admin.slice(15));
    expect(await poll(started)).toMatchObject({ status: "approved" });
  });

  test("approves for one namespace, or denies", async () => {
    const [one, two] = [await start(), await start()];
    const approved = await send({
      ...(await shown(one)),
      grant: "namespace",
      namespace: "bob",
      answer: "approve",
    });
    expect(await approved.text()).toContain("the namespace bob");
    const { api_key } = await poll(one);
    expect(await (await api.call("/v1/me", { key: api_key! })).json()).toMatchObject({ namespace: "bob" });
    expect(await (await send({ ...(await shown(two)), answer: "deny" })).text()).toContain("Denied");
    expect(await poll(two)).toMatchObject({ status: "denied" });
  });

  test("what was mistyped in the second step is asked again, with the reason", async () => {
    const started = await start();
    const form = await shown(started);
    const slips: [Record<string, string>, string][] = [
      [{ grant: "namespace", namespace: "../up" }, "starts with a letter or digit"],
      [{ grant: "workspace", namespace: "bob" }, "chose the whole workspace"],
    ];
    for (const [slip, reason] of slips) {
      const again = await send({ ...form, ...slip, answer: "approve" });
      const text = await again.text();
      expect([again.status, text]).toEqual([422, expect.stringContaining(reason)]);
      expect(formOf(text)["confirmation"]).toBe(form["confirmation"]);
    }
    expect((await send({ ...form, answer: "maybe" })).status).toBe(400);
    expect(await poll(started)).toMatchObject({ status: "pending" });
  });

  test("each refusal is a page with its status; the code stays, the key does not", async () => {
    const started = await start();
    const cases: [string, string, number, string][] = [
      [started.user_code, "trove-sk-admin-wrong", 401, "That admin key does not work here."],
      [started.user_code, unlocked, 403, "This takes an admin key"],
      ["BCDF-GHJK", admin, 404, "No sign-in waits"],
      ["nonsense", admin, 400, "eight letters"],
    ];
    for (const [user_code, admin_key, status, reason] of cases) {
      const response = await send({ user_code, admin_key });
      const text = await response.text();
      expect([response.status, text]).toEqual([status, expect.stringContaining(reason)]);
      expect(response.headers.get("content-type")).toBe("text/html; charset=utf-8");
      expect(text).toContain('role="alert"');
      expect(text).not.toContain(admin_key);
    }
    const kept = await (await send({ user_code: started.user_code, admin_key: "x" })).text();
    expect(formOf(kept)["user_code"]).toBe(started.user_code);
  });

  test("a page of another time, form or key does not answer", async () => {
    const [one, two] = [await start(), await start()];
    const form = await shown(one);
    const forged = {
      ...form,
      confirmation: form["confirmation"]!.replace(/.(?=.{40}$)/, (c) => (c === "A" ? "E" : "A")),
    };
    for (const confirmation of [forged.confirmation, "", "A".repeat(200), "é"]) {
      expect((await send({ ...form, confirmation, answer: "approve" })).status).toBe(409);
    }
    expect(await poll(one)).toMatchObject({ status: "pending" });
    // It is of this sign-in alone, whatever else the form says.
    expect((await send({ ...form, user_code: two.user_code, answer: "deny" })).status).toBe(200);
    expect(await poll(two)).toMatchObject({ status: "pending" });
    expect((await send({ ...form, answer: "approve" })).status).toBe(404);
    // And of a key that still works.
    const late = await shown(two);
    const { keys } = (await (await api.call(`/v1/workspaces/${ws}/keys`, { key: admin })).json()) as {
      keys: { key_id: string; scope: string }[];
    };
    const id = keys.find(({ scope }) => scope === "admin")!.key_id;
    await api.admin(`/v1/workspaces/${ws}/keys/${id}`, { method: "DELETE" });
    expect((await send({ ...late, answer: "approve" })).status).toBe(401);
  });

  test("the audit log names the admin key as who approved", async () => {
    const started = await start();
    await send({ ...(await shown(started)), answer: "approve" });
    const me = (await (await api.call("/v1/me", { key: admin })).json()) as { key_id: string };
    expect(await lastEvent()).toMatchObject({
      type: "login.approved",
      actor_key_id: me.key_id,
      source_address: "127.0.0.1",
    });
  });
});

async function lastEvent(): Promise<unknown> {
  const { rows } = await api.db.$client.execute("SELECT body FROM events ORDER BY created_at DESC LIMIT 1");
  return JSON.parse(rows[0]!["body"] as string);
}

describe("hostile", () => {
  test("every page forbids scripts, frames, other targets and being kept", async () => {
    const started = await start();
    const pages = [
      await fetch(`${base()}/device`),
      await look(started),
      await send({ user_code: "x", admin_key: "y" }),
      await send({ ...(await shown(started)), answer: "deny" }),
      await send({}, { "sec-fetch-site": "cross-site" }),
    ];
    for (const response of pages) {
      const policy = response.headers.get("content-security-policy")!;
      const sources = Object.fromEntries(policy.split("; ").map((one) => one.split(/ (.*)/).slice(0, 2)));
      expect(sources).toEqual({
        "default-src": "'none'",
        "style-src": expect.stringMatching(/^'sha256-[A-Za-z0-9+/]{43}='$/),
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
      });
      expect(Object.fromEntries(response.headers)).toMatchObject({
        "x-frame-options": "DENY",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
      });
      const text = await response.text();
      expect(text).not.toMatch(/<script|<img|<link|<iframe| on[a-z]+=| style=|javascript:/i);
      const style = /<style>([\s\S]*?)<\/style>/.exec(text)![1]!;
      const hash = new Bun.CryptoHasher("sha256").update(style).digest("base64");
      expect(policy).toContain(`'sha256-${hash}'`);
    }
  });

  test("what a program calls itself is text, and can't turn or hide what stands around it", async () => {
    const evil = `<img src=x onerror=alert(1)>"'&\u00ad\u00e9`;
    const started = await start({ "user-agent": evil });
    const text = await (await look(started)).text();
    expect(text).toContain("&lt;img src=x onerror=alert(1)&gt;&quot;&#x27;&amp;?");
    expect(text).not.toContain("<img");
    const long = await start({ "user-agent": "x".repeat(3000) });
    expect((await (await look(long)).text()).match(/x{100,}/)?.[0]).toHaveLength(120);
    const unnamed = await start({ "user-agent": "" });
    expect(await (await look(unnamed)).text()).toContain("unnamed");
    // Nor what stands in the address.
    const query = await fetch(
      `${base()}/device?user_code=${encodeURIComponent('"><script>alert(1)</script>')}`,
    );
    expect(await query.text()).not.toContain("alert(1)");
  });

  test("a form of another site is refused in either step, beside one of this", async () => {
    const started = await start();
    const form = { ...(await shown(started)), answer: "approve" };
    const evil: Record<string, string>[] = [
      { "sec-fetch-site": "cross-site", origin: "https://evil.example" },
      { "sec-fetch-site": "same-site", origin: "https://evil.127.0.0.1" },
      { "sec-fetch-site": "cross-site", origin: base() },
      { "sec-fetch-site": "cross-site", origin: "null" },
    ];
    const old: Record<string, string>[] = [
      { origin: "https://evil.example" },
      { origin: "null" },
      { origin: `http://127.0.0.1:${api.port + 1}` },
      { origin: `http://evil.example/${base()}` },
    ];
    const post = (fields: Record<string, string>, headers: Record<string, string>) =>
      fetch(`${base()}/device`, { method: "POST", headers, body: new URLSearchParams(fields) });
    for (const headers of [...evil, ...old]) {
      for (const fields of [form, { user_code: started.user_code, admin_key: admin }]) {
        const refused = await post(fields, headers);
        expect([refused.status, await refused.text()]).toEqual([
          403,
          expect.stringContaining("another site"),
        ]);
      }
    }
    expect(await poll(started)).toMatchObject({ status: "pending" });
    for (const headers of [{ origin: base() }, { "sec-fetch-site": "same-origin", origin: "null" }, {}]) {
      expect((await post({ user_code: started.user_code, admin_key: admin }, headers)).status).toBe(200);
    }
    expect((await post(form, { origin: base() })).status).toBe(200);
  });

  test("only a small form with each field once is read", async () => {
    const started = await start();
    const good = `user_code=${started.user_code}&admin_key=${admin}`;
    const type = "application/x-www-form-urlencoded";
    const post = async (body: string, contentType: string) =>
      (await fetch(`${base()}/device`, { method: "POST", headers: { "content-type": contentType }, body }))
        .status;
    expect(await post(good, type)).toBe(200);
    expect(await post(`${good}&admin_key=x`, type)).toBe(400);
    expect(await post(`${good}&x=${"y".repeat(9000)}`, type)).toBe(413);
    for (const other of ["text/plain", "multipart/form-data; boundary=x", "application/json"]) {
      expect(await post(good, other)).toBe(415);
    }
  });

  test("a workspace that guesses is stopped, by the API and by the page alike", async () => {
    const started = await start();
    const guess = (n: number) => {
      const code = `BCDF-GH${"BCDFGHJKLMNPQRSTVWXZ"[Math.floor(n / 20)]}${"BCDFGHJKLMNPQRSTVWXZ"[n % 20]}`;
      return n % 2 === 0
        ? api.call(`/v1/workspaces/${ws}/logins/${code}`, { key: admin })
        : send({ user_code: code, admin_key: admin });
    };
    const answers = await Promise.all(Array.from({ length: 40 }, (_, n) => guess(n)));
    expect(answers.filter(({ status }) => status === 404)).toHaveLength(10);
    const refused = answers.filter(({ status }) => status === 429);
    expect(refused).toHaveLength(30);
    for (const { headers } of refused) expect(Number(headers.get("retry-after"))).toBeGreaterThan(500);
    expect((await look(started)).status).toBe(429);
    // Who has no admin key can't use up what the others have.
    expect((await send({ user_code: started.user_code, admin_key: "x" })).status).toBe(401);
  });
});

describe("behind a proxy that is trusted", () => {
  const forwarded = {
    "x-forwarded-for": "198.51.100.9",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "files.example.org",
  };

  test("the page is where the client called, and the client is who asks", async () => {
    // Not trusted yet, so that it is the test's own words.
    expect((await start(forwarded)).verification_uri).toBe(`${base()}/device`);
    await api.stop();
    api.remove();
    api = await startApi({ http: { behind_proxy: ["127.0.0.0/8"] } });
    const first = (await (await api.admin("/admin/setup", { method: "POST" })).json()) as {
      admin_key: string;
    };
    const started = await start(forwarded);
    expect(started.verification_uri).toBe("https://files.example.org/device");
    const fields = { user_code: started.user_code, admin_key: first.admin_key };
    const post = (headers: Record<string, string>) =>
      fetch(`${base()}/device`, {
        method: "POST",
        headers: { ...forwarded, ...headers },
        body: new URLSearchParams(fields),
      });
    expect((await post({ origin: base() })).status).toBe(403);
    const own = await post({ origin: "https://files.example.org" });
    expect([own.status, await own.text()]).toEqual([200, expect.stringContaining("198.51.100.9")]);
  });
});
