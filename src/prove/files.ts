import { z } from "zod";
import { AppError } from "../errors.ts";
import type { Claim } from "./claim.ts";
import type { Stage } from "./stage.ts";

/** How each file of SQLite's begins. */
const DATABASE = "SQLite format 3";

/** What a run may leave in its worktree to lead the appliance astray, when that is compared, merged and read. */
export function fileClaims({ place, attacker, ownText, hostText }: Stage): Claim[] {
  const { appliance, workspace, tag } = place;
  const headers = { "x-workspace": workspace, "x-namespace": tag };
  const run = `/v1/runs/${attacker.run.id}`;
  const isOver = { end: null as Promise<unknown> | null };

  /** A run is compared and merged once it is over. */
  async function over(): Promise<void> {
    isOver.end ??= attacker.run.tell().then(async () => attacker.run.end());
    await isOver.end;
  }

  async function read(name: string): Promise<string> {
    try {
      return await (await appliance.call(`/files/${name}`, { headers })).text();
    } catch (error) {
      if (error instanceof AppError) return `refused: ${error.message}`;
      throw error;
    }
  }

  const leaks = (text: string) =>
    text.includes(hostText) || text.includes(DATABASE) || text.includes("root:x:0");

  return [
    {
      id: "files.diff",
      claim: "What a run leaves in its worktree leads its diff to no file of the host's.",
      attack: "leave links to the host's files and directories, a FIFO and a socket, and ask for the diff",
      control: "it has the text of a file that the run left",
      try: async () => {
        await over();
        const text = await (await appliance.call(`${run}/diff`, { headers })).text();
        const ok = !leaks(text);
        return {
          attack: { ok, what: ok ? `${text.length} bytes, nothing of them` : "it has their text" },
          control: { ok: text.includes(ownText), what: text.includes(ownText) ? "it has" : "it has not" },
        };
      },
    },
    {
      id: "files.merge",
      claim: "Nor does it when the run is merged, and its files are read by the API.",
      attack: "merge it, and read each of them",
      control: "the run's own file is read, also by a link to it",
      try: async () => {
        await over();
        await appliance.ask(z.unknown(), `${run}/merge`, {
          method: "POST",
          headers,
          json: { on_conflict: "run" },
        });
        const names = ["link", "db", "up/passwd", "fifo", "sock"].map((name) => `${tag}.${name}`);
        const texts: string[] = [];
        for (const name of names) texts.push(await read(name));
        const wrong = names.filter((_, at) => !(texts[at] ?? "").startsWith("refused: "));
        const own = [await read(`${tag}.own`), await read(`${tag}.inside`)];
        const control = own.every((text) => text === ownText);
        return {
          attack: {
            ok: wrong.length === 0 && !texts.some(leaks),
            what: wrong.length === 0 ? "each is refused" : `read: ${wrong.join(", ")}`,
          },
          control: { ok: control, what: control ? "it is" : own.join(", ").slice(0, 200) },
        };
      },
    },
  ];
}
