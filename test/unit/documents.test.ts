import { expect, test } from "bun:test";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";

/* What the documents point at is there. Their commands are run by test/docs and test/install. */
const repo = resolve(import.meta.dir, "../..");
const documents = [
  "README.md",
  "SECURITY.md",
  ...readdirSync(join(repo, "docs")).map((name) => `docs/${name}`),
];

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
}
