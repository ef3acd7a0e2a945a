import { operatorExecResult } from "../protocol/operator-exec.ts";
import type { Place } from "./appliance.ts";
import type { Claim, Group, Seen } from "./claim.ts";
import { createProofRuns } from "./runs.ts";

/** Small, so that a bomb goes off soon. */
const LIMITS = { timeout_s: 60, memory_mb: 192, cpus: 1, pids: 64 };
const BOMBS = [
  {
    id: "bombs.memory",
    claim: "A run that takes all the memory it can get ends alone.",
    attack: "fill memory without end",
    command: "head -c 2G /dev/zero | tail",
  },
  {
    id: "bombs.processes",
    claim: "A run that starts processes without end harms itself alone.",
    attack: "fork until nothing forks, for five seconds",
    command: "bomb() { while :; do bomb & bomb; done; }; (bomb) 2>/dev/null & sleep 5; kill -9 -1",
  },
];

/** Runs that take all they can get, with others beside them: these must not notice. */
export function bombGroup(place: Place): Group {
  const { appliance, workspace, tag } = place;
  const start = createProofRuns(place);

  async function works(): Promise<boolean> {
    const answer = await appliance.ask(operatorExecResult, "/admin/exec", {
      method: "POST",
      headers: { "x-workspace": workspace, "x-namespace": `${tag}-witness` },
      json: { command: "echo alive" },
    });
    return Buffer.from(answer.stdout_base64, "base64").toString() === "alive\n";
  }

  const claims = (witness: { readonly stillLives: () => Promise<boolean> }): Claim[] =>
    BOMBS.map(({ id, claim, attack, command }) => ({
      id,
      claim,
      attack,
      control: "a run beside it goes on, and commands are answered meanwhile and afterwards",
      try: async () => {
        const bomb = await start(`${tag}-bomb`, { command, worktree: { from: "empty" }, limits: LIMITS });
        const during = await works();
        const status = await bomb.end();
        const after = (await works()) && (await witness.stillLives());
        const attackSeen: Seen = { ok: status !== "error", what: `it ${status}` };
        const control: Seen = { ok: during && after, what: during && after ? "they do" : "they do not" };
        return { attack: attackSeen, control };
      },
    }));

  return {
    name: "bombs",
    slow: true,
    async open() {
      const command = 'echo READY; while read -r line; do echo "$line"; done';
      const run = await start(`${tag}-witness`, { command, stdin_open: true, worktree: { from: "empty" } });
      await run.line("READY");
      const counter = { said: 0 };
      const stillLives = async () => {
        const word = `word-${counter.said++}`;
        await run.tell({ word });
        return (await run.line(`{"word":"${word}"}`)) !== "";
      };
      return { claims: claims({ stillLives }), close: async () => run.cancel() };
    },
  };
}
