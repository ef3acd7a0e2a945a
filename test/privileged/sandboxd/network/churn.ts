import { newRun, stage } from "./stage.ts";

/** Makes and removes networks until it is killed; says when it has begun. */
const { networks } = stage({ inst: process.argv[2] ?? "" });
await networks.list();
process.stdout.write("begun\n");
for (;;) {
  const runs = [newRun(), newRun(), newRun()];
  await Promise.all(runs.map((run) => networks.ensure(run)));
  await Promise.all(runs.map((run) => networks.remove(run)));
}
