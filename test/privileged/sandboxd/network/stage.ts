import { mkdirSync } from "node:fs";
import { configSchema } from "../../../../src/config/schema.ts";
import { runId, type RunId } from "../../../../src/ids.ts";
import { instanceLayout } from "../../../../src/instance/instance.ts";
import { createLog } from "../../../../src/log.ts";
import { createNetworks } from "../../../../src/sandboxd/network/networks.ts";
import { runCommand, type Runner } from "../../../../src/sandboxd/runner.ts";

export const PORT = 4180;

interface StageOptions {
  /** One for each test: numbers of networks rest after use, per instance. */
  readonly inst: string;
  readonly runs?: object;
  readonly egress?: object;
  readonly run?: Runner;
}

/** Networks of one instance, as sandboxd has them; what it says in its log is kept. */
export function stage({ inst, runs = {}, egress = {}, run = runCommand }: StageOptions) {
  const instance = instanceLayout("/nonexistent", inst);
  mkdirSync("/run/cofferdam", { recursive: true, mode: 0o755 });
  mkdirSync(instance.sandboxd.dir, { recursive: true });
  const config = configSchema.parse({ runs: { gateway_port: PORT, ...runs }, egress });
  const log: string[] = [];
  const open = () =>
    createNetworks({ instance, config, run, log: createLog("test", (line) => log.push(line)) });
  return { instance, config, log, open, networks: open() };
}

export function sh(script: string): string {
  const { stdout, stderr, exitCode } = Bun.spawnSync(["bash", "-ec", script]);
  if (exitCode !== 0) throw new Error(`${script}: ${exitCode}: ${stderr.toString()}`);
  return stdout.toString().trim();
}

/** Which of the two iptables the host's own is. */
export function useIptables(kind: "nft" | "legacy"): void {
  sh(`update-alternatives --set iptables /usr/sbin/iptables-${kind} >/dev/null`);
}

/** Every rule and chain there is, without the counters; what others have, too. */
export function rulesOnHost(): string {
  return sh("iptables-save")
    .split("\n")
    .filter((line) => /^(-A|:(?!PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING))/.test(line))
    .join("\n");
}

export function hostState() {
  return {
    rules: rulesOnHost(),
    links: sh("ip -o link show | sed 's/^[0-9]*: //; s/:.*//'"),
    namespaces: sh("ls /run/netns 2>/dev/null || true"),
  };
}

export function newRun(): RunId {
  return runId.make();
}
