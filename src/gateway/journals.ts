import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { runId, type RunId } from "../ids.ts";
import { syncDirectory } from "../kernel/durable.ts";
import type { Log } from "../log.ts";
import { openJournal, type Journal } from "./journal.ts";

export interface JournalsParts {
  readonly dir: string;
  readonly log: Log;
}

export type Journals = ReturnType<typeof openJournals>;

const ENDING = ".jsonl";

/** The journals of all runs that api has not forgotten yet. */
export function openJournals({ dir, log }: JournalsParts) {
  const journals = new Map<RunId, Journal>();
  const waiting = new Set<() => void>();
  const state = { records: 0 };
  const pathOf = (run: RunId) => join(dir, `${run}${ENDING}`);

  function onRecord(): void {
    state.records += 1;
    for (const wake of waiting) wake();
    waiting.clear();
  }

  function open(run: RunId): Journal {
    const journal = openJournal({ path: pathOf(run), run, log, onRecord });
    journals.set(run, journal);
    return journal;
  }

  mkdirSync(dir, { recursive: true, mode: 0o700 });
  for (const name of readdirSync(dir)) {
    const run = runId.schema.safeParse(name.endsWith(ENDING) ? name.slice(0, -ENDING.length) : "");
    if (!run.success) continue;
    try {
      open(run.data);
    } catch (error) {
      log.error("a run's journal can't be opened", { run: run.data, error });
    }
  }

  return {
    find: (run: RunId): Journal | undefined => journals.get(run),
    all: (): readonly Journal[] => [...journals.values()],

    /** Makes it, the first time; the disk has its name when this returns. */
    of(run: RunId): Journal {
      const known = journals.get(run);
      if (known !== undefined) return known;
      const journal = open(run);
      syncDirectory(dir);
      return journal;
    },

    remove(run: RunId): void {
      journals.get(run)?.close();
      journals.delete(run);
      rmSync(pathOf(run), { force: true });
    },

    /** How many records there have been since the start. */
    count: () => state.records,

    /** Until there has been one more than so many, or so long. */
    async beyond(count: number, timeoutMs: number): Promise<void> {
      if (state.records !== count) return;
      const { promise, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, timeoutMs);
      waiting.add(resolve);
      await promise;
      clearTimeout(timer);
      waiting.delete(resolve);
    },

    /** Whoever waits for a record waits no more. */
    wake: onRecord,

    close(): void {
      for (const journal of journals.values()) journal.close();
    },
  };
}
