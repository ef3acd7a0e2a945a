import { describe, expect, test } from "bun:test";
import type { AppError } from "../../../src/errors.ts";
import { createAddressPolicy } from "../../../src/net/policy.ts";
import { parseTarget, vet } from "../../../src/net/target.ts";
import { seededRandom } from "../../fixtures/random.ts";

const policy = createAddressPolicy({
  allowPrivate: () => [],
  setting: "[webhooks] allow_private",
  isOwn: () => false,
});

async function outcome(url: string, addresses: readonly string[] = []): Promise<string> {
  try {
    const resolve = (name: string) => {
      asked.push(name);
      return Promise.resolve(addresses);
    };
    const asked: string[] = [];
    const target = parseTarget(url, { allowHttp: true });
    const passed = await vet(target, { policy, resolve });
    return `${asked.join() || "no lookup"} -> ${passed.join()}`;
  } catch (error) {
    return (error as AppError).message;
  }
}

describe("hosts that mean an inner address", () => {
  test.each([
    "https://127.0.0.1/", "https://2130706433/", "https://0x7f000001/", "https://0x7f.1/", "https://0177.0.0.1/",
    "https://017700000001/", "https://127.1/", "https://127.0.1/", "https://１２７.０.０.１/", "https://127。0。0。1/",
    "https://①②⑦.⓪.⓪.①/", "https://127%2e0%2e0%2e1/", "https://127.0.0.1./", "https://0/", "https://0x/",
    "https://[::1]/", "https://[0:0:0:0:0:0:0:1]/", "https://[::]/", "https://[::7f00:1]/", "https://[::127.0.0.1]/",
    "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/", "https://[64:ff9b::7f00:1]/",
    "https://[64:ff9b::127.0.0.1]/", "https://[2002:7f00:1::]/", "https://[64:ff9b:1::7f00:1]/", "https://[fe80::1]/",
    "https://169.254.169.254/latest/meta-data/", "https://[fd00:ec2::254]/", "https://3232235521/", "https://10.1/",
    "https://[::ffff:0:7f00:1]/", "https://0x0a000001/", "https://1.1.1.1:443@127.0.0.1/",
    "https://127.0.0.1%2f@1.1.1.1/", "https://1.1.1.1\\@127.0.0.1/", "https://127.0.0.1../", "https://[fe80::1%25eth0]/",
    "https://[fe80::1%eth0]/", "https://[::1%25lo]/", "https://127.0.0.256/", "https://127.0.0.1.1/",
  ])("%s is refused without a lookup", async (url) => {
    expect(await outcome(url, ["1.1.1.1"])).toStartWith("The URL ");
  }); // prettier-ignore

  test.each([
    "https://localhost/",
    "https://localhost./",
    "https://LOCALHOST/",
    "https://ⓛocalhost/",
    "https://loc%61lhost/",
  ])("%s is looked up as localhost, and refused for where that leads", async (url) => {
    expect(await outcome(url, ["127.0.0.1"])).toBe("The URL leads to a loopback address.");
  });
});

describe("URLs that are taken", () => {
  test.each([
    ["https://1.1.1.1/hook", "https://1.1.1.1/hook", "no lookup -> 1.1.1.1"],
    ["https://16843009:8443", "https://1.1.1.1:8443/", "no lookup -> 1.1.1.1"],
    ["https://[2606:4700::1111]:8443/", "https://[2606:4700::1111]:8443/", "no lookup -> 2606:4700::1111"],
    ["HTTPS://Hooks.Example.:443/A?b=c#d", "https://hooks.example/A?b=c", "hooks.example -> 2.2.2.2"],
    ["http://hooks.example:8080/", "http://hooks.example:8080/", "hooks.example -> 2.2.2.2"],
    ["https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC", "xn--bcher-kva.example -> 2.2.2.2"],
    ["https://a_b.example/../x/%2e%2e/y", "https://a_b.example/y", "a_b.example -> 2.2.2.2"],
  ])("%s", async (url, href, vetted) => {
    expect(parseTarget(url, { allowHttp: true }).href).toBe(href);
    expect(await outcome(url, ["2.2.2.2"])).toBe(vetted);
  });

  test("are taken again in the spelling that is kept, or not at all: other alphabets become longer", () => {
    const url = (letters: number) => `https://hooks.example/${"é".repeat(letters)}`;
    const { href } = parseTarget(url(300), { allowHttp: false });
    expect(parseTarget(href, { allowHttp: false }).href).toBe(href);
    expect(() => parseTarget(url(400), { allowHttp: false })).toThrow("longer than 2048 characters");
  });

  test("with what a call needs", () => {
    expect(parseTarget("https://Hooks.Example.:8443/a?b", { allowHttp: false })).toEqual({
      href: "https://hooks.example:8443/a?b",
      secure: true,
      host: "hooks.example",
      port: 8443,
      authority: "hooks.example:8443",
      pathAndQuery: "/a?b",
    });
    expect(parseTarget("https://[2606:4700::1]/", { allowHttp: false })).toMatchObject({
      host: "2606:4700::1",
      authority: "[2606:4700::1]",
      port: 443,
    });
  });
});

describe("URLs that are refused, with what to do", () => {
  test.each([
    ["ftp://a.example/", "must start with https://"],
    ["//a.example/", "must start with https://"],
    ["https:a.example", "must start with https://"],
    ["http://a.example/", "must start with https://; only the operator can allow http"],
    ["https://u@a.example/", "must not hold a user name or password"],
    ["https://@a.example/", "must not hold a user name or password"],
    ["https://:@a.example/", "must not hold a user name or password"],
    ["https://a.example:0/", "has port 0; it may be 443, 80, or 1024 and above"],
    ["https://a.example:25/", "has port 25; it may be 443, 80, or 1024 and above"],
    ["https://a.example:65536/", "is not one: its host or port is not well formed"],
    ["https://", "is not one: its host or port is not well formed"],
    ["https://a .example/", "must not hold spaces, control characters or backslashes"],
    ["https://exa\tmple.example/", "must not hold spaces, control characters or backslashes"],
    ["https://a.example\\@b.example/", "must not hold spaces, control characters or backslashes"],
    ["https://a.example/\0", "must not hold spaces, control characters or backslashes"],
    ["https://a..example/", "has a host that is not a name in DNS"],
    ["https://a.example../", "has a host that is not a name in DNS"],
    ["https://*.example/", "has a host that is not a name in DNS"],
    ["https://-a.example/", "has a host that is not a name in DNS"],
    [`https://${"a".repeat(64)}.example/`, "has a host that is not a name in DNS"],
    [`https://${"a.".repeat(127)}example/`, "has a host that is not a name in DNS"],
    [`https://a.example/${"x".repeat(2040)}`, "is longer than 2048 characters"],
  ])("%p", (url, why) => {
    expect(() => parseTarget(url, { allowHttp: false })).toThrow(`The URL ${why}.`);
  });
});

describe("where a name leads", () => {
  const url = "https://hooks.example/";

  test("one denied address among public ones denies all, wherever it stands", async () => {
    const inner =
      "The URL leads to an address of a private network, which only the operator can allow, by [webhooks] allow_private.";
    expect(await outcome(url, ["1.1.1.1", "10.0.0.1"])).toBe(inner);
    expect(await outcome(url, ["10.0.0.1", "1.1.1.1"])).toBe(inner);
    expect(await outcome(url, ["1.1.1.1", "::1"])).toBe("The URL leads to a loopback address.");
    expect(await outcome(url, ["1.1.1.1", "9.9.9.9"])).toBe("hooks.example -> 1.1.1.1,9.9.9.9");
  });

  test("IPv4 goes first", async () => {
    expect(await outcome(url, ["2606:4700::1", "1.1.1.1"])).toBe("hooks.example -> 1.1.1.1,2606:4700::1");
  });

  test("too many addresses are not even judged", async () => {
    const many = Array.from({ length: 64 }, (_, index) => `1.1.1.${index}`);
    expect(await outcome(url, many)).toStartWith("hooks.example -> 1.1.1.0,");
    expect(await outcome(url, [...many, "127.0.0.1"])).toBe("The URL leads to more than 64 addresses.");
  });

  test("nowhere is said", async () => {
    expect(await outcome(url, [])).toBe("The URL has a host, hooks.example, that has no address in DNS.");
  });

  test("a zone in an answer is refused", async () => {
    expect(await outcome(url, ["fe80::1%2"])).toBe("The URL leads to something other than an IP address.");
  });
});

/** The lists of denied networks again, written as numbers: base, prefix length. */
const DENIED_V4: readonly (readonly [number, number])[] = [
  [0x00000000, 8], [0x0a000000, 8], [0x64400000, 10], [0x7f000000, 8], [0xa9fe0000, 16], [0xac100000, 12],
  [0xc0000000, 24], [0xc0000200, 24], [0xc0586300, 24], [0xc0a80000, 16], [0xc6120000, 15], [0xc6336400, 24],
  [0xcb007100, 24], [0xe0000000, 4], [0xf0000000, 4],
]; // prettier-ignore
const PUBLIC_V4: readonly (readonly [number, number])[] = [[0x01010000, 16], [0x08080800, 24], [0xd0000000, 8]]; // prettier-ignore

/** One IPv4 address in every spelling that a URL takes. */
function spellings(address: number): string[] {
  const octets = [24, 16, 8, 0].map((shift) => (address >>> shift) & 255);
  const [a = 0, b = 0, c = 0, d = 0] = octets;
  const dotted = octets.join(".");
  const [high, low] = [(address >>> 16).toString(16), (address & 0xffff).toString(16)];
  const wide = (text: string) => text.replace(/\d/g, (digit) => String.fromCharCode(0xff10 + Number(digit)));
  const hosts = [
    dotted, `${dotted}.`, String(address), `0x${address.toString(16)}`, `0${address.toString(8)}`,
    octets.map((octet) => `0x${octet.toString(16)}`).join("."), octets.map((octet) => `0${octet.toString(8)}`).join("."),
    `${a}.${((b << 16) | (c << 8) | d) >>> 0}`, `${a}.${b}.${(c << 8) | d}`, `0X${a.toString(16)}.${b}.0${c.toString(8)}.${d}`,
    wide(dotted), dotted.replaceAll(".", "%2E"), dotted.replaceAll(".", "。"), dotted.replace(/\d/g, (digit) => `%3${digit}`),
  ]; // prettier-ignore
  const inner = ["::ffff:", "::", "64:ff9b::", "::FFFF:", "0:0:0:0:0:ffff:", "0064:FF9B:0:0:0:0:"].flatMap(
    (prefix) => [`[${prefix}${dotted}]`, `[${prefix}${high}:${low}]`],
  );
  return [...hosts, ...inner];
}

const seed = Number(process.env["SEED"] ?? 20260);
test(`every address of a denied network is denied in every spelling, and public ones are not (SEED=${seed})`, async () => {
  const random = seededRandom(seed);
  const sample = ([base, bits]: readonly [number, number]) =>
    [0, 2 ** (32 - bits) - 1, ...Array.from({ length: 20 }, () => random.int(2 ** (32 - bits)))].map(
      (host) => base + host,
    );
  const resolve = () => Promise.reject(new Error("looked up"));
  const isDenied = async (host: string) => {
    const target = parseTarget(`https://${host}/`, { allowHttp: false });
    return vet(target, { policy, resolve }).then(
      () => false,
      (error: AppError) => error.code === "invalid",
    );
  };
  const wrong: string[] = [];
  for (const address of DENIED_V4.flatMap(sample)) {
    for (const host of spellings(address)) if (!(await isDenied(host))) wrong.push(host);
  }
  for (const address of PUBLIC_V4.flatMap(sample)) {
    for (const host of spellings(address)) if (await isDenied(host)) wrong.push(host);
  }
  expect(wrong).toEqual([]);
});

test(`of IPv6, only what lies in 2000::/3 and in none of its reserved networks is public (SEED=${seed})`, () => {
  const random = seededRandom(seed);
  const within = (high: number) => high >= 0x20000000 && high < 0x40000000;
  const isReserved = (high: number) =>
    (high >= 0x20010000 && high < 0x20010200) ||
    high === 0x20010db8 ||
    high >>> 16 === 0x2002 ||
    (high >= 0x3fff0000 && high < 0x3fff1000);
  const edges = [
    0x20010000, 0x20010200, 0x20010db8, 0x20010db9, 0x20020000, 0x20030000, 0x3fff0000, 0x3fff1000,
    0x1fffffff, 0x40000000,
  ];
  const highs = [
    ...edges,
    ...edges.map((edge) => edge - 1),
    ...Array.from({ length: 2000 }, () => random.int(2 ** 32)),
  ];
  let allowed = 0;
  for (const high of highs) {
    // Not the one network outside of 2000::/3 that is judged by what it holds.
    if (high === 0x64ff9b || high === 0) continue;
    const rest = Array.from({ length: 6 }, () => random.int(0x10000).toString(16));
    const address = [(high >>> 16).toString(16), (high & 0xffff).toString(16), ...rest].join(":");
    const judgement = policy.judge(address);
    expect([address, judgement.allowed]).toEqual([address, within(high) && !isReserved(high)]);
    if (judgement.allowed) allowed++;
  }
  expect(allowed).toBeGreaterThan(100);
});
