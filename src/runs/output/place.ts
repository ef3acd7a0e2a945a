import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { RunId } from "../../ids.ts";
import type { Instance } from "../../instance/instance.ts";
import { makeFifo } from "../../kernel/fifo.ts";

const FIFOS = ["in", "out", "err"] as const;
export type Fifo = (typeof FIFOS)[number];

/** Where a run's pipes and its output are. */
export function createPlaces({ api, sockets }: Pick<Instance, "api" | "sockets">) {
  const pipes = (run: RunId): string => join(sockets.runs, run);

  return {
    fifo: (run: RunId, name: Fifo): string => join(pipes(run), name),
    /** There when its stdin has had its end. */
    ended: (run: RunId): string => join(pipes(run), "ended"),
    output: (run: RunId): string => join(api.runs, run, "output"),

    /** What there is already stays as it is. */
    makeFifos(run: RunId): void {
      mkdirSync(pipes(run), { recursive: true, mode: 0o700 });
      for (const name of FIFOS) makeFifo(join(pipes(run), name));
    },

    removeFifos: (run: RunId): void => rmSync(pipes(run), { recursive: true, force: true }),
  };
}
