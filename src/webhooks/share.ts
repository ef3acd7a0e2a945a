/** What asks for attempts now. */
export interface Applicant {
  /** How many it may have. */
  readonly room: number;
  readonly inFlight: number;
  readonly isSlow: boolean;
}

/**
 * Shares out what is free: one each in turn, the least busy first, until nobody has room. Slow ones together get no more
 * than `freeSlow`, so that the others never wait for them. Those that get none are left out.
 */
export function share<A extends Applicant>(
  applicants: readonly A[],
  { free, freeSlow }: { readonly free: number; readonly freeSlow: number },
): Map<A, number> {
  const given = new Map<A, number>();
  const inTurn = applicants.toSorted((a, b) => a.inFlight - b.inFlight);
  let left = free;
  let leftSlow = freeSlow;
  for (let isAny = true; isAny;) {
    isAny = false;
    for (const one of inTurn) {
      const has = given.get(one) ?? 0;
      if (has >= one.room || left <= 0 || (one.isSlow && leftSlow <= 0)) continue;
      given.set(one, has + 1);
      left--;
      if (one.isSlow) leftSlow--;
      isAny = true;
    }
  }
  return given;
}
