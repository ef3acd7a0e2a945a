import { isUtf8 } from "node:buffer";

/** Names from the top down. */
type Path = readonly Uint8Array[];

export interface ShownPath {
  readonly path: string;
  /** When it is not UTF-8, and `path` only like it. */
  readonly path_base64?: string;
}

export function joined(path: Path): Buffer {
  return Buffer.concat(path.flatMap((part, index) => (index === 0 ? [part] : [SLASH, part])));
}

const SLASH = Buffer.from("/");

/** For the answer of a call. */
export function shownPath(path: Path): ShownPath {
  const name = joined(path);
  return { path: name.toString(), ...(!isUtf8(name) && { path_base64: name.toString("base64") }) };
}
