import { expect, test } from "bun:test";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { isKnownPattern } from "../../src/audit/types.ts";

/* What the documents point at is there. Their commands are run by test/docs and test/install. */
const repo = resolve(import.meta.dir, "../..");
const documents = [
  "README.md",
  "SECURITY.md",
  ...readdirSync(join(repo, "docs")).map((name) => `docs/${name}`),
];

/** What `cofferdam prove` claims, by its own source. */
const claims = new Set(
  readdirSync(join(repo, "src/prove"))
    .filter((name) => name.endsWith(".ts"))
    .flatMap((name) => [
      ...readFileSync(join(repo, "src/prove", name), "utf8").matchAll(/\bid: "([a-z-]+\.[a-z0-9-]+)"/g),
    ])
    .map(([, id = ""]) => id),
);
const groups = new Set([...claims].map((id) => id.split(".")[0]));

test("prove's claims are found", () => {
  expect(claims.size).toBeGreaterThan(40);
});

for (const document of documents) {
  const text = readFileSync(join(repo, document), "utf8");

  test(`${document}: its links lead somewhere`, () => {
    const targets = [...text.matchAll(/\]\((?!https?:)([^)#]+)[^)]*\)/g)].map(([, target = ""]) => target);
    expect(targets.filter((target) => !existsSync(join(repo, dirname(document), target)))).toEqual([]);
  });

  test(`${document}: the tests and sources that it names exist`, () => {
    const named = [
      ...text.matchAll(/`((?:[\w.-]+\/)+[\w.-]+\.ts|(?:src|test|rootfs|build|bench)\/[\w./-]*)`/g),
    ];
    const places = ["", "test", "test/privileged"];
    const absent = named
      .map(([, name = ""]) => name)
      .filter((name) => !places.some((place) => existsSync(join(repo, place, name))));
    expect(absent).toEqual([]);
  });

  test(`${document}: the claims of prove that it names are made`, () => {
    const named = [...text.matchAll(/`([a-z]+)\.([a-z0-9-]+)`/g)].filter(
      ([, group = "", name = ""]) => groups.has(group) && !["ts", "md"].includes(name),
    );
    // Types of events are written alike.
    const events = /^(run|exec)\.[a-z]+$/;
    const ids = named.map(([, group, name]) => `${group}.${name}`);
    const isEvent = (id: string) => events.test(id) && isKnownPattern(id);
    expect(ids.filter((id) => !claims.has(id) && !isEvent(id))).toEqual([]);
  });
}
