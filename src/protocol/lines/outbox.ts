interface Writable {
  write(bytes: Uint8Array): number;
}

/** What is to be sent on one socket, in order: Bun's write may take only a part, and the rest waits for `drain`. */
export class Outbox {
  readonly #socket: Writable;
  readonly #queue: Uint8Array[] = [];

  constructor(socket: Writable) {
    this.#socket = socket;
  }

  /** `bytes` must not change afterwards. */
  send(bytes: Uint8Array): void {
    if (this.#queue.length > 0) {
      this.#queue.push(bytes);
      return;
    }
    const taken = Math.max(0, this.#socket.write(bytes));
    if (taken < bytes.length) this.#queue.push(bytes.subarray(taken));
  }

  /** To be called when the socket can take more. */
  drain(): void {
    for (;;) {
      const [bytes] = this.#queue;
      if (bytes === undefined) return;
      const taken = Math.max(0, this.#socket.write(bytes));
      if (taken < bytes.length) {
        this.#queue[0] = bytes.subarray(taken);
        return;
      }
      this.#queue.shift();
    }
  }
}
