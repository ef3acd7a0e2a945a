/**
 * `read`, at most once in `maxAgeMs` and never twice at a time, however many ask: those in between get what the last one
 * got, or is getting.
 */
export function createRecent<T>(read: () => Promise<T>, maxAgeMs: number): () => Promise<T> {
  let last: { readonly at: number; readonly value: Promise<T> } | null = null;
  let reading = false;
  return () => {
    const now = performance.now();
    if (last !== null && (reading || now - last.at < maxAgeMs)) return last.value;
    reading = true;
    last = { at: now, value: read().finally(() => (reading = false)) };
    return last.value;
  };
}
