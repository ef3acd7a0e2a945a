import { closeFd } from "../kernel/openat2.ts";

/** An open file descriptor that closes when its scope ends: `using dir = …`. */
export class Descriptor implements Disposable {
  readonly fd: number;
  #open = true;

  constructor(fd: number) {
    this.fd = fd;
  }

  [Symbol.dispose](): void {
    if (!this.#open) return;
    this.#open = false;
    closeFd(this.fd);
  }

  /**
   * The entry `name` of this directory, for the calls that Bun runs on its threads: those that may wait for the disk.
   * A magic link of our own: it names the open directory, wherever that was moved, so only `name` is looked up.
   */
  entry(name: string | Uint8Array): string | Buffer {
    const directory = `/proc/self/fd/${this.fd}/`;
    return typeof name === "string" ? directory + name : Buffer.concat([Buffer.from(directory), name]);
  }
}
