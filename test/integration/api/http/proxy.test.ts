import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { raw, startApi, type TestApi } from "../../../fixtures/api.ts";

/* What stands in front of the server is told by its address; here it is this host's own. */
let behind: TestApi;
let plain: TestApi;
beforeAll(async () => {
  behind = await startApi({ http: { behind_proxy: ["127.0.0.1"] } });
  plain = await startApi();
});
afterAll(async () => {
  for (const api of [behind, plain]) {
    await api.stop();
    api.remove();
  }
});

/** Of a request with these headers: what the server took its sender for, and what it said. */
async function seen(api: TestApi, ...headers: string[]) {
  const head = ["GET /v1/me HTTP/1.1", "Host: upstream:8080", ...headers, "Connection: close"];
  const answer = await raw(api.port, `${head.join("\r\n")}\r\n\r\n`);
  const context = api.refusals.at(-1)?.context;
  return {
    address: context?.address,
    secure: context?.secure,
    host: context?.host,
    hsts: /^strict-transport-security: /im.test(answer),
  };
}

const TOLD = [
  "X-Forwarded-For: 1.1.1.1",
  "X-Forwarded-For: 198.51.100.9",
  "X-Forwarded-Proto: https",
  "X-Forwarded-Host: files.example.com",
];

describe("behind a proxy", () => {
  test("the client is whom the proxy saw, whatever the client wrote, and its browser should stay with TLS", async () => {
    expect(await seen(behind, ...TOLD)).toEqual({
      address: "198.51.100.9",
      secure: true,
      host: "files.example.com",
      hsts: true,
    });
  });

  test("that says nothing, all is as it came", async () => {
    expect(await seen(behind)).toEqual({
      address: "127.0.0.1",
      secure: false,
      host: "upstream:8080",
      hsts: false,
    });
  });

  test("links lead to where the client came from", async () => {
    const start = (headers: Record<string, string>) =>
      behind.call("/v1/auth/device/start", { method: "POST", headers, json: {} });
    const { verification_uri } = (await (
      await start({ "x-forwarded-proto": "https", "x-forwarded-host": "files.example.com" })
    ).json()) as { verification_uri: string };
    expect(verification_uri).toBe("https://files.example.com/device");
  });

  test("a forwarded host that is none is refused", async () => {
    for (const host of ["a b", "evil/x", "a@b", "files.example.com?"]) {
      const answer = await raw(
        behind.port,
        `GET /healthz HTTP/1.1\r\nHost: x\r\nX-Forwarded-Host: ${host}\r\nConnection: close\r\n\r\n`,
      );
      expect(answer).toStartWith("HTTP/1.1 400");
    }
  });
});

test("without one, nobody can say that they are another, or came by TLS", async () => {
  expect(await seen(plain, ...TOLD)).toEqual({
    address: "127.0.0.1",
    secure: false,
    host: "upstream:8080",
    hsts: false,
  });
});
