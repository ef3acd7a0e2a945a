import { defineCommand, runCommand } from "citty";
import { exitCodeOf, missingWord, sentenceOf } from "./cli/failure.ts";
import { findCommand, helpText, usage, whyNone } from "./cli/help.ts";
import { terminal } from "./cli/terminal.ts";
import { AppError } from "./errors.ts";

const main = defineCommand({
  meta: {
    name: "cofferdam",
    description: "A safe place for AI agents to work: files and a shell in gVisor",
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
    login: () => import("./cli/login.ts").then(({ loginCommand }) => loginCommand),
    namespace: () => import("./cli/namespace.ts").then(({ namespace }) => namespace),
    exec: () => import("./cli/exec.ts").then(({ exec }) => exec),
    file: () => import("./cli/file.ts").then(({ file }) => file),
    snapshot: () => import("./cli/snapshot.ts").then(({ snapshot }) => snapshot),
    run: () => import("./cli/run.ts").then(({ run }) => run),
    gc: () => import("./cli/gc.ts").then(({ gc }) => gc),
    credential: () => import("./cli/credential.ts").then(({ credential }) => credential),
    receipt: () => import("./cli/receipt.ts").then(({ receipt }) => receipt),
    event: () => import("./cli/event.ts").then(({ event }) => event),
    webhook: () => import("./cli/webhook.ts").then(({ webhook }) => webhook),
    backup: () => import("./cli/backup.ts").then(({ backup }) => backup),
    restore: () => import("./cli/restore.ts").then(({ restore }) => restore),
    database: () => import("./cli/database.ts").then(({ database }) => database),
    evidence: () => import("./cli/evidence.ts").then(({ evidence }) => evidence),
    prove: () => import("./cli/prove.ts").then(({ prove }) => prove),
    status: () => import("./cli/status.ts").then(({ status }) => status),
    doctor: () => import("./cli/doctor.ts").then(({ doctor }) => doctor),
    config: () => import("./cli/config.ts").then(({ config }) => config),
    version: () => import("./cli/version.ts").then(({ version }) => version),
  },
});

// `cofferdam file cat … | head` is no failure worth a stack.
process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 141 : 1));

const HELP = new Set(["--help", "-h"]);

async function run(args: readonly string[]): Promise<void> {
  const ownWords = args.includes("--") ? args.slice(0, args.indexOf("--")) : args;
  const [first] = ownWords;
  if (first === undefined || first === "help" || ownWords.some((word) => HELP.has(word))) {
    const words = ownWords.filter((word) => !HELP.has(word));
    process.stdout.write(await helpText(await findCommand(main, first === "help" ? words.slice(1) : words)));
    return;
  }
  const found = await findCommand(main, first === "--version" ? ["version", ...args.slice(1)] : args);
  const none = await whyNone(found);
  if (none !== null) throw none;
  await runCommand(found.command, { rawArgs: [...found.rest] }).catch(async (error: unknown) => {
    const missing = missingWord(error);
    throw missing === null
      ? error
      : new AppError("bad_input", `${missing} is missing: ${await usage(found)}`);
  });
}

run(process.argv.slice(2)).catch((error: unknown) => {
  terminal.error(sentenceOf(error));
  process.exit(exitCodeOf(error));
});
