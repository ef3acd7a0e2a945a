import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { publishConfig } from "../../../src/instance/setup.ts";
import { createAuthority } from "../../fixtures/authority.ts";
import { PORT, REBINDING, startGatewayStage, type GatewayStage } from "../../fixtures/gateway-stage.ts";
import { HOST, NEAR } from "../../fixtures/web.ts";

setDefaultTimeout(60_000);
let stage: GatewayStage;
beforeAll(async () => {
  stage = await startGatewayStage();
});
afterAll(() => stage[Symbol.asyncDispose]());

describe("programs that ask by the web proxy", () => {
  test("curl", async () => {
    const { code, out } = await stage.curl("https://files.test/hello.txt");
    expect([code, out]).toEqual([0, expect.stringContaining("hello\n")]);
    // The control: without the proxy there is no way.
    expect((await stage.curl("https://files.test/hello.txt", {}, ["--connect-timeout", "2"])).code).not.toBe(
      0,
    );
  });

  test("git", async () => {
    const env = { ...stage.proxied(), GIT_SSL_CAINFO: stage.ca };
    const cloned = await stage.run.exec(
      ["git", "clone", "https://files.test/demo.git", stage.file("cloned")],
      {
        env,
      },
    );
    expect(cloned).toMatchObject({ code: 0 });
    expect(readFileSync(stage.file("cloned/file.txt"), "utf8")).toBe("content\n");
    const refused = await stage.run.exec(["git", "clone", "https://other.test/demo.git", stage.file("no")], {
      env,
    });
    expect([refused.code, refused.out]).toEqual([128, expect.stringContaining("403")]);
  });

  test.skipIf(Bun.which("pip3") === null)("pip", async () => {
    const install = async (host: string, target: string) => {
      const options = ["--no-cache-dir", "--retries", "1", "--target", target, "--cert", stage.ca];
      return stage.run.exec(["pip3", "install", ...options, "-i", `https://${host}/pip/simple`, "demo"], {
        env: { ...stage.proxied(), PIP_DISABLE_PIP_VERSION_CHECK: "1" },
      });
    };
    expect(await install("files.test", stage.file("pip"))).toMatchObject({ code: 0 });
    expect(readFileSync(stage.file("pip/demo.py"), "utf8")).toContain("demo");
    // It shows the reason, which is in the answer's first line.
    const refused = await install("other.test", stage.file("pip-no"));
    expect(refused.code).not.toBe(0);
    expect(refused.out).toContain("other.test:443 is not among the hosts that this run may reach");
  });

  test.skipIf(Bun.which("npm") === null)("npm", async () => {
    mkdirSync(stage.file("npm"));
    const env = { ...stage.proxied(), npm_config_cafile: stage.ca };
    const install = (host: string) =>
      stage.run.exec(
        ["npm", "install", "--no-audit", "--fetch-retries=0", `--registry=https://${host}/npm/`, "demo"],
        {
          env,
          cwd: stage.file("npm"),
        },
      );
    const installed = await install("files.test");
    expect([installed.code, installed.out]).toEqual([0, expect.any(String)]);
    expect(readFileSync(stage.file("npm/node_modules/demo/demo.js"), "utf8")).toContain("demo");
    const refused = await install("other.test");
    expect([refused.code === 0, refused.out]).toEqual([false, expect.stringContaining("403")]);
  });

  test.skipIf(Bun.which("cargo") === null)("cargo", async () => {
    mkdirSync(stage.file("cargo/.cargo"), { recursive: true });
    mkdirSync(stage.file("cargo/src"));
    writeFileSync(stage.file("cargo/src/lib.rs"), "");
    const registry = '[registries.test]\nindex = "sparse+https://files.test/cargo/index/"\n';
    writeFileSync(stage.file("cargo/.cargo/config.toml"), registry);
    const manifest = '[package]\nname = "mine"\nversion = "0.1.0"\nedition = "2021"\n';
    const dependency = '[dependencies]\ndemo = { version = "1", registry = "test" }\n';
    writeFileSync(stage.file("cargo/Cargo.toml"), manifest + dependency);
    const fetched = await stage.run.exec(["cargo", "fetch"], {
      env: {
        ...stage.proxied(),
        CARGO_HTTP_CAINFO: stage.ca,
        CARGO_HOME: stage.file("cargo-home"),
        RUSTUP_HOME: "/root/.rustup",
      },
      cwd: stage.file("cargo"),
    });
    expect([fetched.code, fetched.out]).toEqual([0, expect.stringContaining("Downloaded demo v1.0.0")]);
  });
});

describe("where it does not lead", () => {
  test.each([
    ["inner.test", "leads to an address of a private network"],
    ["neighbour.test", "leads to an address of this host itself"],
    ["itself.test", "leads to an address of this host itself"],
    ["gateway.test", "leads to an address of this host itself"],
    ["near.test", "leads to an address of this host itself"],
    ["loop.test", "leads to a loopback address"],
    ["metadata.test", "leads to a link-local address"],
  ])("%s %s", async (host, why) => {
    const { code, out } = await stage.curl(`https://${host}/`);
    expect([code, out]).toEqual([56, expect.stringContaining(`403 Forbidden: ${host} ${why}`)]);
  });

  test("what listens on this host, on every address, is reached by the host itself and by no run", async () => {
    using listener = Bun.serve({
      hostname: "0.0.0.0",
      port: 443,
      tls: createAuthority().issue("DNS:near.test"),
      fetch: () => new Response("of the host"),
    });
    const own = await fetch(`https://${NEAR}:${listener.port}/`, { tls: { rejectUnauthorized: false } });
    expect(await own.text()).toBe("of the host");
    for (const host of ["near.test", "gateway.test", "loop.test"]) {
      expect((await stage.curl(`https://${host}/`, stage.proxied(), ["-k"])).out).not.toContain(
        "of the host",
      );
    }
  });

  test("a name that leads elsewhere a moment later is dialled where it was judged", async () => {
    expect((await stage.curl(`https://${REBINDING}/hello.txt`)).out).toContain("hello\n");
    expect((await stage.curl(`https://${REBINDING}/hello.txt`)).out).toContain("leads to a loopback address");
  });

  test("TLS for another name of the same server is cut; for the right one it is not", async () => {
    const elsewhere = ["--connect-to", "other.test:443:files.test:443"];
    const { code, out } = await stage.curl("https://other.test/hello.txt", stage.proxied(), elsewhere);
    expect([code, out]).toEqual([35, expect.stringContaining("unrecognized name")]);
    expect((await stage.curl("https://files.test/hello.txt")).code).toBe(0);
  });

  test("no token, a wrong one, and one from elsewhere open nothing", async () => {
    expect((await stage.curl("https://files.test/", stage.proxied("wrong"))).out).toContain(
      "407 Proxy Authentication Required",
    );
    // From the host itself, whose address on that wire is not the run's.
    const here = Bun.spawnSync(["curl", "-sSv", "--cacert", stage.ca, "https://files.test/"], {
      env: { PATH: "/usr/bin:/bin", ...stage.proxied() },
    });
    expect(here.stderr.toString()).toContain("407 Proxy Authentication Required: Come from this run");
    const models = Bun.spawnSync([
      "curl",
      "-sS",
      "-H",
      `x-api-key: ${stage.token}`,
      `http://${HOST}:${PORT}/v1/models`,
    ]);
    expect(models.stdout.toString()).toContain("authentication_error");
    const inRun = ["curl", "-sS", "-H", `x-api-key: ${stage.token}`, `http://${HOST}:${PORT}/v1/models`];
    expect((await stage.run.exec(inRun)).out).toContain("permission_error");
  });
});

test("a reload takes other networks that it may dial", async () => {
  const { instance, gateway, notices } = stage;
  const config = stage.file("config.toml");
  writeFileSync(config, '[egress]\nallow_private = ["10.1.0.0/16"]\n');
  publishConfig(instance, config);
  gateway.kill("SIGHUP");
  await notices.until("RELOADING=1");
  await notices.until("READY=1");
  // It is dialled now, and nothing is there; another run's network is not, whatever is allowed.
  expect((await stage.curl("https://inner.test/")).out).toContain(
    "502 Bad Gateway: inner.test:443 could not be reached",
  );
  expect((await stage.curl("https://neighbour.test/")).out).toContain(
    "leads to an address of this host itself",
  );
});
