import { writeSync } from "node:fs";
import { KernelError } from "../kernel/libc.ts";
import { closeFd } from "../kernel/openat2.ts";
import { peerCredentials } from "../kernel/peer.ts";
import { connectUnix } from "../kernel/unixsocket.ts";
import type { z } from "zod";
import type { sandboxHello } from "../protocol/sandboxd.ts";
import { OperationError } from "../protocol/lines/failure.ts";

const NOT_LISTENING = new Set(["ENOENT", "ECONNREFUSED", "EAGAIN"]);

/** api does not listen: nothing is broken, and it is tried again when it does. */
export class ApiAway extends OperationError {
  constructor(cause: unknown) {
    super("unavailable", "api does not accept sandboxes now", { cause });
    this.name = "ApiAway";
  }
}

/**
 * A connection to api's sandbox socket, to become a sandbox's stdin and stdout. The socket lies in api's directory, so
 * the path may lead anywhere: the kernel says who listens, and only api's own uid gets a sandbox.
 */
export function connectToApi(path: string, apiUid: number, hello: z.infer<typeof sandboxHello>): number {
  const fd = connect(path);
  try {
    const { uid } = peerCredentials(fd);
    if (uid !== apiUid) throw new Error(`${path} is listened on by uid ${uid}, not by api (${apiUid})`);
    writeSync(fd, `${JSON.stringify(hello)}\n`);
    return fd;
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}

function connect(path: string): number {
  try {
    return connectUnix(path);
  } catch (error) {
    if (error instanceof KernelError && NOT_LISTENING.has(error.code)) throw new ApiAway(error);
    throw error;
  }
}
