/** `read`, at most once in `maxAgeMs` however many ask: those in between get what the last one got, or is getting. */
export function createRecent<T>(read: () => Promise<T>, maxAgeMs: number): () => Promise<T> {
  let last: { readonly at: number; readonly value: Promise<T> } | null = null;
  return () => {
    const now = performance.now();
    if (last === null || now - last.at >= maxAgeMs) last = { at: now, value: read() };
    return last.value;
  };
}
