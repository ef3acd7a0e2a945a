/** The length of `bytes` without a character that is cut off at the end. */
export function wholeCharacters(bytes: Uint8Array): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back] ?? 0;
    // A continuation byte: the character began before it.
    if ((byte & 0xc0) === 0x80) continue;
    // What no character begins with stays.
    const length = byte > 0xf4 || byte < 0xc2 ? 1 : byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
    return length > back ? bytes.length - back : bytes.length;
  }
  return bytes.length;
}
