import { defineCommand, runMain } from "citty";

const main = defineCommand({
  meta: {
    name: "cofferdam",
    description: "A safe place for AI agents to work: files, a shell in gVisor, supervised runs",
  },
});

void runMain(main);
