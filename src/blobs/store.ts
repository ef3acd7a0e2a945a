/** Where blobs lie: the local disk, or a bucket. */
export interface BlobStore {
  /**
   * Durable when it resolves, after which nothing of `bytes` is used any more. A key's content never differs, so putting
   * it again is a success.
   */
  put(key: string, bytes: Uint8Array): Promise<void>;
  /** null when there is none. The bytes are the caller's, who may give their memory away. */
  get(key: string): Promise<Uint8Array | null>;
  /** What is not there is a success. */
  delete(keys: readonly string[]): Promise<void>;
  /** All whose keys begin with `prefix`, in no order. */
  list(prefix: string): AsyncIterable<StoredObject>;
  /** One of the few objects that change, and a tag of the version that was read. */
  read(key: string): Promise<Version | null>;
  /** The tag alone: whether it is still the version that is known costs no download. null when there is none. */
  tag(key: string): Promise<string | null>;
  /**
   * Puts `bytes` in place of the version `expected` (null: there must be none) and returns the tag of the new one, or
   * throws StaleVersion and changes nothing.
   * After any other failure it may have been done. No two versions may have the same bytes: they tell whose it is.
   */
  replace(key: string, bytes: Uint8Array, expected: string | null): Promise<string>;
}

export interface StoredObject {
  readonly key: string;
  readonly sizeBytes: number;
  /** Milliseconds since 1970, by the store's clock. */
  readonly modifiedAt: number;
}

export interface Version {
  readonly bytes: Uint8Array;
  readonly tag: string;
}

/** Somebody else has replaced the object meanwhile. */
export class StaleVersion extends Error {
  constructor(key: string) {
    super(`${key} is another version than was expected`);
    this.name = "StaleVersion";
  }
}

/** Keys are relative paths of lower-case names; nothing that a tenant chose is ever part of one. */
const KEY = /^[a-z0-9][a-z0-9.-]*(\/[a-z0-9][a-z0-9.-]*)*$/;

export function isKey(text: string): boolean {
  return KEY.test(text);
}

export function checkKey(key: string): string {
  if (!isKey(key)) throw new Error(`${JSON.stringify(key)} is no key of a blob store`);
  return key;
}
