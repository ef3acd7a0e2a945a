import { describe, expect, test } from "bun:test";
import { loadConfig } from "../../../src/config/load.ts";
import { settingsInForce, waitingForRestart } from "../../../src/config/settings.ts";

const load = (http: Record<string, unknown>) =>
  loadConfig({
    env: {},
    overrides: Object.entries(http).map(([key, value]) => ({ key: `http.${key}`, value, from: "test" })),
  });
const a = load({ tls_cert: "/a.pem", tls_key: "/a.key" });
const b = load({ tls_cert: "/b.pem", tls_key: "/b.key" });
const off = load({});

describe("a reload", () => {
  test("goes on with another certificate's files", () => {
    expect(waitingForRestart(a, b)).toEqual([]);
    expect(settingsInForce(a, b).find(({ key }) => key === "http.tls_cert")?.value).toBe("/b.pem");
  });

  test("turns TLS neither on nor off", () => {
    expect(waitingForRestart(off, a)).toEqual(["http.tls_cert", "http.tls_key"]);
    expect(waitingForRestart(a, off)).toEqual(["http.tls_cert", "http.tls_key"]);
    expect(settingsInForce(off, a).find(({ key }) => key === "http.tls_cert")).toEqual({
      key: "http.tls_cert",
      value: "",
      origin: 'default; "/a.pem" waits for a restart (test)',
    });
  });

  test("trusts no other proxies before a restart", () => {
    const behind = load({ behind_proxy: "10.0.0.1" });
    expect(waitingForRestart(off, behind)).toEqual(["http.behind_proxy"]);
    expect(waitingForRestart(behind, load({ behind_proxy: ["10.0.0.1"] }))).toEqual([]);
  });
});
