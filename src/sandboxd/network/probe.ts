import { CommandError, type Runner } from "../runner.ts";
import type { Networks } from "./networks.ts";

const ANSWER_MS = 2000;
/** For what is dropped there is never an answer. */
const SILENCE_MS = 300;

export interface Probed {
  /** Whether the gateway's port on its host's end answers a run's network: with a refusal, since nobody listens. */
  readonly gateway: boolean;
  /** Whether the port before it does. */
  readonly other: boolean;
}

/** Makes a network as a run's, tries its walls from inside, and removes it. */
export async function probeNetwork(
  networks: Networks,
  { run, gatewayPort }: { readonly run: Runner; readonly gatewayPort: number },
): Promise<Probed> {
  return await networks.tryOut(async ({ netnsPath, host }) => {
    const from = { run, netnsPath, host };
    const [gateway, other] = await Promise.all([
      answers({ ...from, port: gatewayPort, withinMs: ANSWER_MS }),
      answers({ ...from, port: gatewayPort - 1, withinMs: SILENCE_MS }),
    ]);
    return { gateway, other };
  });
}

interface Call {
  readonly run: Runner;
  readonly netnsPath: string;
  readonly host: string;
  readonly port: number;
  readonly withinMs: number;
}

async function answers({ run, netnsPath, host, port, withinMs }: Call): Promise<boolean> {
  const connect = ["bash", "-c", 'exec 3<>"/dev/tcp/$1/$2"', "connect", host, `${port}`];
  try {
    await run(["nsenter", `--net=${netnsPath}`, ...connect], { timeoutMs: withinMs });
    return true;
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    if (error.reason.kind === "timeout") return false;
    if (error.stderr.includes("Connection refused")) return true;
    throw error;
  }
}
