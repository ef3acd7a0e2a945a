import { expect, test } from "bun:test";
import { AppError } from "../../../src/errors.ts";
import { loginId, workspaceId } from "../../../src/ids.ts";
import { createGuesses } from "../../../src/signin/guesses.ts";
import { createPace } from "../../../src/signin/pace.ts";

const MINUTE = 60_000;

function refusal(call: () => unknown): AppError | null {
  try {
    call();
    return null;
  } catch (error) {
    if (error instanceof AppError) return error;
    throw error;
  }
}

test("a workspace has ten wrong guesses in ten minutes, whatever its addresses", () => {
  let at = 0;
  const guesses = createGuesses(() => at);
  const [bad, good] = [workspaceId.make(), workspaceId.make()];
  const guess = (n: number) => refusal(() => guesses.begin({ workspaceId: bad, source: `a${n}` }));
  expect(Array.from({ length: 12 }, (_, n) => guess(n)?.code ?? null)).toEqual([
    ...Array.from({ length: 10 }, () => null),
    "busy",
    "busy",
  ]);
  expect(guess(99)?.retryAfterS).toBe(600);
  expect(refusal(() => guesses.begin({ workspaceId: good, source: "a1" }))).toBeNull();
  at = 10 * MINUTE;
  expect(guess(0)).toBeNull();
});

test("right ones are free", () => {
  const guesses = createGuesses(() => 0);
  const who = { workspaceId: workspaceId.make(), source: "a" };
  for (let n = 0; n < 100; n++) guesses.begin(who).right();
  expect(refusal(() => guesses.begin(who))).toBeNull();
});

test("an address has thirty, of whatever workspaces", () => {
  const guesses = createGuesses(() => 0);
  const tries = Array.from({ length: 40 }, () =>
    refusal(() => guesses.begin({ workspaceId: workspaceId.make(), source: "one" })),
  );
  expect(tries.filter((one) => one === null)).toHaveLength(30);
  expect(refusal(() => guesses.begin({ workspaceId: workspaceId.make(), source: "another" }))).toBeNull();
  expect(refusal(() => guesses.begin({ workspaceId: workspaceId.make(), source: null }))).toBeNull();
});

test("when all together guess too much, each workspace still has two", () => {
  const guesses = createGuesses(() => 0);
  for (let n = 0; n < 300; n++) guesses.begin({ workspaceId: workspaceId.make(), source: null });
  const quiet = workspaceId.make();
  const tries = Array.from({ length: 5 }, () =>
    refusal(() => guesses.begin({ workspaceId: quiet, source: null })),
  );
  expect(tries.map((one) => one === null)).toEqual([true, true, false, false, false]);
});

test("polls at the interval are never refused, faster ones are, and slowing down is enough", () => {
  let at = 1e6;
  const pace = createPace(() => at);
  const id = loginId.make();
  const poll = () => refusal(() => pace.check(id));
  for (let n = 0; n < 300; n++, at += 2000) expect(poll()).toBeNull();
  // Held up by the network for up to a second, on a schedule of two.
  const start = at;
  for (let n = 0; n < 300; n++) {
    at = start + n * 2000 + (n % 2) * 999;
    expect(poll()).toBeNull();
  }
  at += 5000;
  expect(poll()).toBeNull();
  at += 100;
  expect(poll()).toMatchObject({ code: "busy", retryAfterS: 2 });
  for (let n = 0; n < 50; n++) expect(poll()?.code).toBe("busy");
  at += 2000;
  expect(poll()).toBeNull();
  expect(refusal(() => pace.check(loginId.make()))).toBeNull();
});

test("twice as fast is refused about every other time", () => {
  let at = 0;
  const pace = createPace(() => at);
  const id = loginId.make();
  let refused = 0;
  for (let n = 0; n < 100; n++, at += 1000) if (refusal(() => pace.check(id)) !== null) refused++;
  expect(refused).toBeGreaterThan(45);
});
