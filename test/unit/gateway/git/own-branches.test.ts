import { expect, test } from "bun:test";
import { createOwnBranches } from "../../../../src/gateway/git/journal.ts";
import { openJournal } from "../../../../src/gateway/journal.ts";
import { credentialId, runId } from "../../../../src/ids.ts";
import { createLog } from "../../../../src/log.ts";
import { scratchDirectory } from "../../../fixtures/scratch.ts";

const ZERO = "0".repeat(40);
const ONE = "1".repeat(40);

test("a branch is a run's own when the server took it from it, in that repository, where there was none", async () => {
  using scratch = scratchDirectory();
  const run = runId.make();
  const journal = openJournal({
    path: `${scratch.path}/journal`,
    run,
    log: createLog("test", () => {}),
  });
  const pushed = (repository: string, name: string, accepted: boolean | null, old = ZERO) =>
    journal.append({
      kind: "git",
      credential: credentialId.make(),
      repository,
      action: "push",
      refs: [{ ref: `refs/heads/${name}`, old, new: ONE, accepted }],
      bytes: 1,
      duration_ms: 1,
    });
  const branches = createOwnBranches();
  const own = async (repository = "acme/app") => {
    const isOwn = await branches(journal, repository);
    return ["made", "refused", "unknown", "moved", "later"].filter((name) => isOwn(`refs/heads/${name}`));
  };
  expect(await own()).toEqual([]);
  pushed("acme/app", "made", true);
  pushed("acme/app", "refused", false);
  pushed("acme/app", "unknown", null);
  pushed("acme/app", "moved", true, ONE);
  expect(await own()).toEqual(["made"]);
  expect(await own("acme/other")).toEqual([]);
  pushed("acme/app", "later", true);
  // Whoever looks for the first time finds the same.
  for (const look of [branches, createOwnBranches()]) {
    const isOwn = await look(journal, "acme/app");
    expect(["made", "later", "moved"].map((name) => isOwn(`refs/heads/${name}`))).toEqual([
      true,
      true,
      false,
    ]);
  }
  journal.close();
});
