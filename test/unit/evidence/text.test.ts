import { expect, test } from "bun:test";
import type { Evidence } from "../../../src/evidence/evidence.ts";
import { see } from "../../../src/evidence/section.ts";
import { evidenceJson, evidenceText } from "../../../src/evidence/text.ts";

const words = (name: string) => ({ name, title: `About ${name}`, claim: "It holds.", by_hand: ["look"] });

async function taken(): Promise<Evidence> {
  const holding = await see({
    ...words("good"),
    look: () => ({ facts: { n: 1 }, lines: ["a\u001B[2Jb\u202Ec"], wrong: [] }),
  });
  const broken = await see({
    ...words("bad"),
    look: () => ({ facts: {}, lines: [], wrong: ["it is open"] }),
  });
  const unseen = await see({ ...words("gone"), look: () => Promise.reject(new Error("no such file")) });
  return {
    run_id: "run-aaaaaaaaaa",
    taken_at: "2026-01-02T03:04:05.678Z",
    live: true,
    holds: false,
    run: {
      workspace_id: "ws-a",
      namespace: "alice",
      status: "running",
      exit_code: null,
      error: null,
      created_at: "",
      started_at: null,
      finished_at: null,
    },
    sections: [holding, broken, unseen],
  };
}

test("each claim has its verdict, and one that could not be looked at neither holds nor fails", async () => {
  const text = evidenceText(await taken());
  expect(text).toContain("1. About good\n   Claim: It holds.\n");
  expect(text).toContain("   By hand: look\n   HOLDS\n");
  expect(text).toContain("   DOES NOT HOLD: it is open\n");
  expect(text).toContain("   NOT SEEN: could not be looked at: no such file\n");
  expect(text).toEndWith("1 of 3 claims hold, 1 do not, 1 could not be looked at.");
});

test("a tenant's words do not move the reader's terminal", async () => {
  const text = evidenceText(await taken());
  expect(text).toContain("a\\u{1b}[2Jb\\u{202e}c");
  for (const mover of ["\u001B", "\u202E"]) expect(text).not.toContain(mover);
});

test("for a script, sections stand under their names", async () => {
  expect(evidenceJson(await taken())).toMatchObject({
    run_id: "run-aaaaaaaaaa",
    holds: false,
    sections: {
      good: { claim: "It holds.", holds: true, wrong: [], by_hand: ["look"], facts: { n: 1 } },
      gone: { holds: null, facts: null },
    },
  });
});
