import { afterAll, expect, test } from "bun:test";
import { openRedirect } from "../../../../src/api/http/redirect.ts";
import { raw } from "../../../fixtures/api.ts";

const server = openRedirect({
  endpoint: { hostname: "127.0.0.1", port: 0 },
  httpsPort: 8443,
  covers: (host) => ["files.test", "127.0.0.1", "[::1]"].includes(host),
});
afterAll(() => server.stop(true));

async function ask(head: string, host = "files.test") {
  const answer = await raw(server.port ?? 0, `${head}\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
  const [headers = "", body = ""] = answer.split("\r\n\r\n");
  return {
    status: Number(headers.split(" ")[1]),
    location: /^location: (.*)$/im.exec(headers)?.[1]?.trim() ?? null,
    body,
    headers,
  };
}

test("no answer is kept, or taken for anything but what it is", async () => {
  for (const [head, host] of [
    ["GET / HTTP/1.1"],
    ["POST / HTTP/1.1"],
    ["GET / HTTP/1.1", "evil.test"],
  ] as const) {
    const { headers } = await ask(head, host);
    expect(headers).toMatch(/^x-content-type-options: nosniff\r?$/im);
    expect(headers).toMatch(/^cache-control: no-store\r?$/im);
  }
});

test("a GET and a HEAD are sent to the same place over TLS", async () => {
  const to = "https://files.test:8443/v1/files?path=a%20b&x=%2e%2e";
  expect(await ask("GET /v1/files?path=a%20b&x=%2e%2e HTTP/1.1")).toMatchObject({
    status: 308,
    location: to,
  });
  expect(await ask("HEAD /v1/files?path=a%20b&x=%2e%2e HTTP/1.1")).toMatchObject({
    status: 308,
    location: to,
    body: "",
  });
  expect((await ask("GET / HTTP/1.1", "files.test:80")).location).toBe("https://files.test:8443/");
  expect((await ask("GET / HTTP/1.1", "[::1]:80")).location).toBe("https://[::1]:8443/");
});

test("at the usual port the place has none", async () => {
  const usual = openRedirect({
    endpoint: { hostname: "127.0.0.1", port: 0 },
    httpsPort: 443,
    covers: () => true,
  });
  const answer = await fetch(`http://127.0.0.1:${usual.port}/a`, { redirect: "manual" });
  expect(answer.headers.get("location")).toBe("https://127.0.0.1/a");
  await usual.stop(true);
});

test.each(["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])(
  "a %s is told off and goes nowhere",
  async (method) => {
    const { status, location, body } = await ask(
      `${method} /v1/exec HTTP/1.1\r\nAuthorization: Bearer trove-sk-x`,
    );
    expect([status, location]).toEqual([403, null]);
    expect(JSON.parse(body)).toEqual({
      detail:
        "What you sent went over the network in the clear: revoke the key that was in it, and use https://files.test:8443.",
    });
    expect(body).not.toContain("trove-sk-x");
  },
);

test("a GET that brought a key is told so too", async () => {
  const { status, body } = await ask("GET /v1/me HTTP/1.1\r\nAuthorization: Bearer trove-sk-x");
  expect([status, JSON.parse(body)]).toEqual([308, { detail: expect.stringContaining("revoke the key") }]);
});

test("nobody is sent to a place that the certificate is not for", async () => {
  for (const host of [
    "evil.test",
    "files.test.evil.test",
    "files.test@evil.test",
    "evil.test/files.test",
    "",
    "a, b",
    "files.test:99999",
  ]) {
    expect([host, await ask("GET / HTTP/1.1", host)]).toMatchObject([host, { status: 400, location: null }]);
  }
  const elsewhere = [
    "//evil.test/",
    "/\\evil.test",
    "///evil.test",
    "/@evil.test",
    "/.evil.test",
    "http://evil.test/x",
    "/%0d%0aX: y",
  ];
  for (const target of elsewhere) {
    const { location } = await ask(`GET ${target} HTTP/1.1`);
    // A target that Bun itself refuses is fine too.
    if (location !== null) expect(new URL(location).origin).toBe("https://files.test:8443");
  }
});
