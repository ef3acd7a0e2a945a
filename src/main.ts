import { defineCommand, runCommand, runMain } from "citty";
import { exitCodeOf, sentenceOf } from "./cli/failure.ts";
import { terminal } from "./cli/terminal.ts";

const main = defineCommand({
  meta: {
    name: "cofferdam",
    description: "A safe place for AI agents to work: files, a shell in gVisor, supervised runs",
  },
  // Each is loaded when it is called, so that none pays for another's imports.
  subCommands: {
    serve: () => import("./cli/serve.ts").then(({ serve }) => serve),
    api: () => import("./cli/api.ts").then(({ api }) => api),
    gateway: () => import("./cli/gateway.ts").then(({ gateway }) => gateway),
    sandboxd: () => import("./cli/sandboxd.ts").then(({ sandboxd }) => sandboxd),
    setup: () => import("./cli/setup.ts").then(({ setup }) => setup),
    prepare: () => import("./cli/prepare.ts").then(({ prepare }) => prepare),
    workspace: () => import("./cli/workspace.ts").then(({ workspace }) => workspace),
    key: () => import("./cli/key.ts").then(({ key }) => key),
    namespace: () => import("./cli/namespace.ts").then(({ namespace }) => namespace),
    exec: () => import("./cli/exec.ts").then(({ exec }) => exec),
    file: () => import("./cli/file.ts").then(({ file }) => file),
    status: () => import("./cli/status.ts").then(({ status }) => status),
    doctor: () => import("./cli/doctor.ts").then(({ doctor }) => doctor),
    config: () => import("./cli/config.ts").then(({ config }) => config),
    version: () => import("./cli/version.ts").then(({ version }) => version),
  },
});

// `cofferdam file cat … | head` is no failure worth a stack.
process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 141 : 1));

const args = process.argv.slice(2);
const ownWords = args.includes("--") ? args.slice(0, args.indexOf("--")) : args;
if (ownWords.length === 0 || ownWords.includes("--help") || ownWords.includes("-h")) {
  void runMain(main, { rawArgs: ownWords.length === 0 ? ["--help"] : ownWords });
} else {
  runCommand(main, { rawArgs: args }).catch((error: unknown) => {
    terminal.error(sentenceOf(error));
    process.exit(exitCodeOf(error));
  });
}
