import { expect, test } from "bun:test";
import { hasPassed } from "../../../src/protocol/proof.ts";
import type { Claim, Group, Trial } from "../../../src/prove/claim.ts";
import { withDeadline } from "../../../src/prove/deadline.ts";
import { prove } from "../../../src/prove/prove.ts";
import { failureOf } from "../../fixtures/failure.ts";

const trial = (attack: boolean, control: boolean): Trial => ({
  attack: { ok: attack, what: "seen" },
  control: { ok: control, what: "seen" },
});
const claim = (id: string, tried: () => Promise<Trial>): Claim => ({
  id,
  claim: "holds",
  attack: "tried",
  control: "tried elsewhere",
  try: tried,
});
const closed: string[] = [];
const group = (name: string, claims: readonly Claim[], slow = false): Group => ({
  name,
  slow,
  open: async () => ({ claims, close: async () => void closed.push(name) }),
});
const proof = async (groups: readonly Group[], quick = false) =>
  prove({ groups, quick, onGroup() {}, onResult() {} });

test("a claim passes when its attack failed and its control worked, and only then", async () => {
  const { claims } = await proof([
    group("one", [
      claim("one.held", async () => trial(true, true)),
      claim("one.broken", async () => trial(false, true)),
      claim("one.blind", async () => trial(true, false)),
      claim("one.thrown", async () => {
        throw new Error("nobody there");
      }),
    ]),
  ]);
  expect(claims.map(({ id, passed }) => [id, passed])).toEqual([
    ["one.held", true],
    ["one.broken", false],
    ["one.blind", false],
    ["one.thrown", false],
  ]);
  expect(claims[3]?.attack).toContain("nobody there");
});

test("a group that can't be tried fails the proof, not the other groups", async () => {
  const broken: Group = {
    name: "two",
    slow: false,
    open: async () => Promise.reject(new Error("no run began")),
  };
  const report = await proof([broken, group("three", [claim("three.held", async () => trial(true, true))])]);
  expect(report.error).toBe("two: no run began");
  expect(report.claims.map(({ id }) => id)).toEqual(["three.held"]);
  expect(hasPassed(report)).toBe(false);
  expect(closed).toContain("three");
});

test("a quick one leaves out what is slow", async () => {
  const slow = group("four", [claim("four.held", async () => trial(true, true))], true);
  expect((await proof([slow], true)).claims).toEqual([]);
  expect((await proof([slow])).claims).toHaveLength(1);
});

test("what never ends is not waited for", async () => {
  const error = await failureOf(withDeadline(new Promise(() => {}), 5));
  expect(error).toContain("longer than");
  expect(await withDeadline(Promise.resolve("in time"), 1000)).toBe("in time");
});
