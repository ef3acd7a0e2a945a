import { existsSync } from "node:fs";
import { DEFAULT_DATA, type Instance } from "../instance/instance.ts";
import { terminal } from "./terminal.ts";

/** As long as a unit may take to stop. */
const PATIENCE_MS = 45_000;
const PAUSE_MS = 100;

/** `systemctl stop cofferdam.target` comes back while its services are still being stopped: waits for them. */
export async function whenStopped({ data, inst }: Instance): Promise<void> {
  if (!existsSync("/run/systemd/system")) return;
  const at = data === DEFAULT_DATA ? "" : `@${inst}`;
  const roles = new RegExp(`cofferdam-(api|gateway|sandboxd)${at}\\.service +stop `);
  const deadline = Date.now() + PATIENCE_MS;
  for (let told = false; Date.now() < deadline; await Bun.sleep(PAUSE_MS)) {
    const jobs = Bun.spawnSync(["systemctl", "list-jobs", "--no-legend", "--plain"]);
    if (!roles.test(jobs.stdout.toString())) return;
    if (!told) terminal.info("waiting until the services have stopped");
    told = true;
  }
}
