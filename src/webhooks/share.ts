/** What asks for attempts now. */
export interface Applicant {
  /** Whose it is: all of one owner stand in one place of the queue. */
  readonly owner: string;
  /** How many it may have. */
  readonly room: number;
  readonly inFlight: number;
  /** When it was last heard of; 0 if never. */
  readonly lastAt: number;
  readonly isSlow: boolean;
}

/** What is free. Slow ones get no more than `slow` of `all`, so that the others never wait for them. */
export interface Free {
  all: number;
  slow: number;
}

/**
 * Shares out what is free: one each in turn, the owners with the most that is free to them first, of each owner the
 * least busy first, then those unheard of for longest, until nobody has room. Those that get none are left out.
 */
export function share<A extends Applicant>(
  applicants: readonly A[],
  free: Readonly<Free>,
  freeOf: (owner: string) => Readonly<Free>,
): Map<A, number> {
  const given = new Map<A, number>();
  const left = { ...free };
  const inTurn = applicants.toSorted((a, b) => a.inFlight - b.inFlight || a.lastAt - b.lastAt);
  const owners = [...Map.groupBy(inTurn, ({ owner }) => owner)]
    .map(([owner, queue]) => ({ queue, left: { ...freeOf(owner) } }))
    .toSorted((a, b) => b.left.all - a.left.all);

  /** Whether one of the owner's got one. Who can't have any now leaves the queue: it won't later. */
  function giveOne(owner: (typeof owners)[number]): boolean {
    for (let one = owner.queue.shift(); one !== undefined; one = owner.queue.shift()) {
      const has = given.get(one) ?? 0;
      const spaces = [left, owner.left];
      if (has >= one.room || spaces.some(({ all, slow }) => all <= 0 || (one.isSlow && slow <= 0))) continue;
      given.set(one, has + 1);
      for (const space of spaces) {
        space.all--;
        if (one.isSlow) space.slow--;
      }
      owner.queue.push(one);
      return true;
    }
    return false;
  }

  for (let waiting = owners; waiting.length > 0;) waiting = waiting.filter(giveOne);
  return given;
}
