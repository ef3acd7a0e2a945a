import { expect, test } from "bun:test";
import { runId, workspaceId, type RunId, type WorkspaceId } from "../../../src/ids.ts";
import { createRunQueue, type QueueLimits, type QueueOptions } from "../../../src/runs/queue.ts";
import { until } from "../../fixtures/until.ts";

function open(limits: Partial<QueueLimits> = {}, options: QueueOptions = {}) {
  const admitted: RunId[] = [];
  const queue = createRunQueue(
    () => ({ live: 4, perWorkspace: 4, queue: 100, ...limits }),
    (run) => void admitted.push(run),
    options,
  );
  const enter = (workspace: WorkspaceId, most: number | null = null): RunId => {
    const run = runId.make();
    using place = queue.reserve(workspace, most);
    place.enter(run);
    return run;
  };
  return { queue, admitted, enter };
}

test("so many live, and the next does when one leaves", () => {
  const { queue, admitted, enter } = open({ live: 2 });
  const workspace = workspaceId.make();
  const [one, two, three] = [enter(workspace), enter(workspace), enter(workspace)];
  expect(admitted).toEqual([one, two]);
  expect(queue.stats()).toEqual({ live: 2, waiting: 1 });
  queue.leave(workspace, one);
  expect(admitted).toEqual([one, two, three]);
  expect(queue.stats()).toEqual({ live: 2, waiting: 0 });
});

test("workspaces take turns, however many runs of one wait", () => {
  const { queue, admitted, enter } = open({ live: 1 });
  const [greedy, modest] = [workspaceId.make(), workspaceId.make()];
  const first = enter(greedy);
  const rest = Array.from({ length: 5 }, () => enter(greedy));
  const own = [enter(modest), enter(modest)];
  const order: RunId[] = [first];
  for (let n = 0; n < 7; n++) {
    const last = admitted.at(-1)!;
    queue.leave(own.includes(last) ? modest : greedy, last);
    order.push(admitted.at(-1)!);
  }
  expect(order).toEqual([first, rest[0]!, own[0]!, rest[1]!, own[1]!, ...rest.slice(2)]);
});

test("a workspace has as many at once as it may, and does not keep others waiting", () => {
  const { admitted, enter } = open({ live: 8, perWorkspace: 2 });
  const [one, two, narrow] = [workspaceId.make(), workspaceId.make(), workspaceId.make()];
  const first = [enter(one), enter(one)];
  enter(one);
  const other = enter(two);
  const only = enter(narrow, 1);
  enter(narrow, 1);
  expect(admitted).toEqual([...first, other, only]);
});

test("a full queue refuses; half of it is kept from any one workspace", () => {
  const { queue, enter } = open({ live: 1, queue: 4 });
  const [one, two] = [workspaceId.make(), workspaceId.make()];
  for (let n = 0; n < 3; n++) enter(one);
  expect(() => enter(one)).toThrow(/Too many runs are waiting/);
  enter(two);
  enter(two);
  expect(() => enter(two)).toThrow(/Too many/);
  expect(queue.stats()).toEqual({ live: 1, waiting: 4 });
});

test("a place that is reserved counts, and comes back when it is not entered", () => {
  const { queue, enter } = open({ live: 1, queue: 2 });
  const [one, two] = [workspaceId.make(), workspaceId.make()];
  enter(one);
  const held = queue.reserve(one, null);
  expect(() => queue.reserve(one, null)).toThrow(/Too many/);
  held[Symbol.dispose]();
  held[Symbol.dispose]();
  queue.reserve(one, null).enter(runId.make());
  // Nor does a reservation for a free place let two in.
  const other = open({ live: 1, queue: 0 });
  const place = other.queue.reserve(two, null);
  expect(() => other.queue.reserve(one, null)).toThrow(/Too many/);
  place.enter(runId.make());
  expect(other.admitted).toHaveLength(1);
});

test("a policy of no runs is a refusal, not a wait", () => {
  const { queue } = open();
  expect(() => queue.reserve(workspaceId.make(), 0)).toThrow(/policy/);
});

test("one that waits may leave, and one that is unknown is no matter", () => {
  const { queue, admitted, enter } = open({ live: 1 });
  const workspace = workspaceId.make();
  const first = enter(workspace);
  const second = enter(workspace);
  queue.leave(workspace, second);
  queue.leave(workspace, second);
  queue.leave(workspaceId.make(), runId.make());
  queue.leave(workspace, first);
  expect(admitted).toEqual([first]);
  expect(queue.stats()).toEqual({ live: 0, waiting: 0 });
});

test("those from before a restart keep their places, even beyond a limit that shrank", () => {
  const { queue, admitted, enter } = open({ live: 1 });
  const workspace = workspaceId.make();
  const old = [runId.make(), runId.make()];
  for (const run of old) queue.lives(workspace, run);
  const waited = runId.make();
  queue.waits(workspace, waited, null);
  const fresh = enter(workspace);
  expect(admitted).toEqual([]);
  for (const run of old) queue.leave(workspace, run);
  expect(admitted).toEqual([waited]);
  queue.leave(workspace, waited);
  expect(admitted).toEqual([waited, fresh]);
});

test("while it is closed none that waits may live, however many leave, and one that waits for nobody does", async () => {
  let isClosed = false;
  const { queue, admitted, enter } = open({ live: 1 }, { isClosed: () => isClosed, lookEveryMs: 5 });
  const [workspace, proofs] = [workspaceId.make(), workspaceId.make()];
  const [one, two] = [enter(workspace), enter(workspace)];
  isClosed = true;
  const own = runId.make();
  queue.enterAtOnce(proofs, own);
  expect(admitted).toEqual([one, own]);
  queue.leave(workspace, one);
  queue.reload();
  queue.leave(proofs, own);
  await Bun.sleep(20);
  expect(admitted).toEqual([one, own]);
  isClosed = false;
  await until(() => admitted.length === 3);
  expect(admitted).toEqual([one, own, two]);
});
