import { closeSync, fstatSync, openSync } from "node:fs";
import { relative } from "node:path";
import type { RunId } from "../../ids.ts";
import type { Instance } from "../../instance/instance.ts";
import { constants, openBeneath } from "../../kernel/openat2.ts";
import type { User } from "../../kernel/users.ts";

/** runsc gives its stdio to the user of its sandbox, so an earlier start that was undone has left them so. */
const SANDBOX_UID = 65_534;

export interface Fifos {
  readonly in: number;
  readonly out: number;
  readonly err: number;
  close(): void;
}

/**
 * Opens a run's stdio, which api has made, for reading and writing: so none of it ends while api is away. The directories
 * are api's and hostile, so nothing is followed, and what was found is looked at before it is opened as more than a
 * place: it must be a FIFO of api's.
 */
export function openFifos(instance: Instance, run: RunId, api: User): Fifos {
  const opened: number[] = [];
  const close = () => opened.splice(0).forEach((fd) => closeSync(fd));
  const open = (name: string): number => {
    const fd = openFifo(instance, `${run}/${name}`, api);
    opened.push(fd);
    return fd;
  };
  try {
    return { in: open("in"), out: open("out"), err: open("err"), close };
  } catch (error) {
    close();
    throw error;
  }
}

function openFifo(instance: Instance, below: string, api: User): number {
  const root = openSync(instance.sockets.dir, constants.O_PATH | constants.O_DIRECTORY);
  try {
    const path = `${relative(instance.sockets.dir, instance.sockets.runs)}/${below}`;
    const options = { noSymlinks: true, noMounts: true };
    const place = openBeneath(root, path, constants.O_PATH | constants.O_NOFOLLOW, 0, options);
    try {
      const found = fstatSync(place);
      if (!found.isFIFO()) throw new Error("it is no FIFO");
      if (found.uid !== api.uid && found.uid !== SANDBOX_UID)
        throw new Error(`it belongs to uid ${found.uid}, not to api`);
      return openSync(`/proc/self/fd/${place}`, constants.O_RDWR | constants.O_NONBLOCK);
    } finally {
      closeSync(place);
    }
  } catch (error) {
    throw new Error(`the run's FIFO ${below} can't be opened`, { cause: error });
  } finally {
    closeSync(root);
  }
}
