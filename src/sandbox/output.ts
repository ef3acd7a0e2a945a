/** A smaller piece is always copied: a view is an object too, and a tenant may write one byte at a time. */
const SMALLEST_VIEW = 4096;
const LARGEST_TAIL = 64 * 1024;

/**
 * One stream's output, as it arrives. What it holds in memory is at most about twice what was written: a piece is kept as a
 * view only when it is most of the chunk that it pins, anything else is gathered in a tail.
 */
export class Output {
  readonly #parts: Uint8Array[] = [];
  #tail = new Uint8Array(0);
  /** #tail[from..to) is filled and not yet among the parts. */
  #from = 0;
  #to = 0;
  #bytes = 0;

  get bytes(): number {
    return this.#bytes;
  }

  add(piece: Uint8Array): void {
    this.#bytes += piece.length;
    if (piece.length >= SMALLEST_VIEW && piece.length * 2 >= piece.buffer.byteLength) {
      this.#closeTail();
      this.#parts.push(piece);
      return;
    }
    let rest = piece;
    while (rest.length > 0) {
      if (this.#to === this.#tail.length) {
        this.#closeTail();
        this.#tail = new Uint8Array(Math.min(LARGEST_TAIL, Math.max(this.#bytes, rest.length)));
        this.#from = 0;
        this.#to = 0;
      }
      const part = rest.subarray(0, this.#tail.length - this.#to);
      this.#tail.set(part, this.#to);
      this.#to += part.length;
      rest = rest.subarray(part.length);
    }
  }

  /** All of it, in one piece. */
  take(): Uint8Array {
    this.#closeTail();
    const [first] = this.#parts;
    if (this.#parts.length === 1 && first !== undefined) return first;
    const all = new Uint8Array(this.#bytes);
    let at = 0;
    for (const part of this.#parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }

  #closeTail(): void {
    if (this.#to > this.#from) this.#parts.push(this.#tail.subarray(this.#from, this.#to));
    this.#from = this.#to;
  }
}
