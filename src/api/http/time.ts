/** UTC with milliseconds and Z, always of one width: clients sort these as text. */
export function timestamp(ms: number): string {
  return new Date(ms).toISOString();
}
