import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { workspaces } from "../../../../src/db/schema.ts";
import { workspaceId, type NamespaceId } from "../../../../src/ids.ts";
import { until } from "../../../fixtures/until.ts";
import { worktreeFixture } from "../../../fixtures/worktrees.ts";

/** Two workspaces, and looks at the namespaces of the first that take for as long as the test says. */
async function twoTenants() {
  const gate = Promise.withResolvers<void>();
  const slow = new Set<NamespaceId>();
  /** Of those that are slow, in the order in which they got their turns. */
  const looking: NamespaceId[] = [];
  const fixture = await worktreeFixture({
    async slow(id) {
      if (!slow.has(id)) return;
      looking.push(id);
      await gate.promise;
    },
  });
  const [greedy, other] = [workspaceId.make(), workspaceId.make()];
  for (const id of [greedy, other]) {
    await fixture.db.insert(workspaces).values({ id, name: id, createdAt: 1 });
  }
  async function forkIn(workspace: typeof greedy) {
    const namespace = await fixture.namespace();
    const fork = await fixture.fork(namespace, { from: "namespace" }, { workspaceId: workspace });
    writeFileSync(join(fork.work, "new"), "x");
    return { ...fork, namespace };
  }
  return {
    fixture,
    slow,
    looking,
    gate,
    ofGreedy: () => forkIn(greedy),
    ofOther: () => forkIn(other),
    [Symbol.asyncDispose]: () => fixture[Symbol.asyncDispose](),
  };
}

test("a workspace's slow looks hold up no other workspace's", async () => {
  await using tenants = await twoTenants();
  const { fixture, slow, looking, gate } = tenants;
  const mine = await tenants.ofOther();
  const greedy = await Promise.all(Array.from({ length: 6 }, tenants.ofGreedy));
  for (const { namespace } of greedy) slow.add(namespace.id);
  const held = greedy.flatMap(({ id }) => [fixture.worktrees.diff(id), fixture.worktrees.diff(id)]);
  await until(() => looking.length > 0);
  // All of its turns are taken, and a queue waits for them, when another's comes.
  expect((await fixture.worktrees.diff(mine.id)).changes).toMatchObject([{ path: "new" }]);
  expect(await fixture.worktrees.merge(mine.id, fixture.call(mine.namespace))).toMatchObject({ files: 1 });
  expect(looking.length).toBeLessThan(held.length);
  gate.resolve();
  for (const { changes } of await Promise.all(held)) expect(changes).toMatchObject([{ path: "new" }]);
});

test("within a workspace, a namespace with many slow looks leaves turns to the others", async () => {
  await using tenants = await twoTenants();
  const { fixture, slow, looking, gate } = tenants;
  const [one, two] = [await tenants.ofGreedy(), await tenants.ofGreedy()];
  slow.add(one.namespace.id);
  const held = Array.from({ length: 5 }, () => fixture.worktrees.diff(one.id));
  await until(() => looking.length > 0);
  expect((await fixture.worktrees.diff(two.id)).changes).toMatchObject([{ path: "new" }]);
  gate.resolve();
  await Promise.all(held);
});
