import { realpathSync } from "node:fs";
import { dirname, join } from "node:path";

export interface Self {
  /** The program to execute to get another process of this kind: the appliance itself, or Bun in a clone. */
  readonly executable: string;
  /** What stands before the subcommand: nothing, or the script in a clone. */
  readonly script: readonly string[];
  /** The clone, which a process started from it has to be able to read; null for the compiled executable. */
  readonly clone: string | null;
}

/** How this process was started. */
export function self(): Self {
  const executable = realpathSync(process.execPath);
  // Bun mounts what is compiled in at this path.
  if (Bun.main.startsWith("/$bunfs/")) return { executable, script: [], clone: null };
  return { executable, script: [Bun.main], clone: dirname(dirname(import.meta.dir)) };
}

/** Beside the executable at PREFIX/bin, what it needs lies in PREFIX/lib/cofferdam. */
export function libraryDirectory(): string {
  return join(dirname(dirname(self().executable)), "lib", "cofferdam");
}
