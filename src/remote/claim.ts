import { StaleVersion, type BlobStore } from "../blobs/store.ts";
import { AppError } from "../errors.ts";
import type { NamespaceId } from "../ids.ts";
import { headKey, type Head, type HeadCodec } from "./head.ts";

/** What a commit says of the files; the claim adds whose it is. */
export type Content = Partial<Pick<Head, "base" | "delta" | "collecting">>;

export interface ClaimParts {
  readonly store: Pick<BlobStore, "read" | "replace" | "tag">;
  readonly namespace: NamespaceId;
  readonly codec: HeadCodec;
  /** This data directory. */
  readonly host: string;
  /** This process. */
  readonly run: string;
  /** Whether this process had the claim before: then nobody may have written the head since. */
  readonly again?: boolean;
  /** The epoch of the last claim that is known of: the bucket has had a head since. */
  readonly known?: number;
  /** How long another's collection is waited for, and how often it is looked whether it has ended. */
  readonly patience?: { readonly collectionMs: number; readonly everyMs: number };
}

/** What a collection takes at most from its mark in the head on, with the store's own patience for the last deletion. */
const COLLECTION = { collectionMs: 60_000, everyMs: 500 };

/** Versions that one `put` tries to replace: each failure but the last was a version of our own. */
const MAX_ATTEMPTS = 5;
const LOST_RETRY_S = 30;
/** How long a claim is tried against somebody who goes on writing, and what is waited at most in between. */
const CONTEST_MS = 10_000;
const LONGEST_PAUSE_MS = 50;

export type Claim = Awaited<ReturnType<typeof claimOnce>>;

/** Somebody else has written the namespace's head since this process did: what it has on its disk counts no more. */
export class ClaimLost extends AppError {
  constructor() {
    super(
      "unavailable",
      "Another host serves this namespace now; send the call there. This one takes it again only after a restart.",
      { retryAfterS: LOST_RETRY_S },
    );
  }
}

/**
 * Makes this process the one writer of a namespace's head. From the first answer of the store on, whatever another
 * process had under way is refused there. `before` is what was in the bucket; null when there was nothing.
 */
export async function openClaim(parts: ClaimParts): Promise<Claim> {
  for (const since = performance.now(); ; await Bun.sleep(Math.random() * LONGEST_PAUSE_MS)) {
    try {
      return await claimOnce(parts);
    } catch (error) {
      // The one who has it commits, or another claims it too: nothing is lost that was not ours yet.
      if (!(error instanceof ClaimLost) || parts.again === true) throw error;
      if (performance.now() - since > CONTEST_MS) throw contested();
    }
  }
}

async function claimOnce(parts: ClaimParts) {
  const { store, namespace, codec, host, run, again = false, known = 0, patience = COLLECTION } = parts;
  const key = headKey(namespace);

  async function readHead() {
    const found = await store.read(key);
    return { tag: found?.tag ?? null, head: found === null ? null : await codec.open(found.bytes) };
  }

  let found = await readHead();
  for (const since = performance.now(); found.head?.collecting === true && found.head.run !== run;) {
    // Its process may have died.
    if (performance.now() - since > patience.collectionMs) break;
    await Bun.sleep(patience.everyMs);
    found = await readHead();
  }
  const before = found.head;
  if (again && before?.run !== run) throw new ClaimLost();
  // Else it would be taken for new, and its files for none.
  if (before === null && known > 0) throw missing();
  let { tag } = found;
  let head: Head = {
    epoch: (before?.epoch ?? 0) + 1,
    host,
    run,
    commit: crypto.randomUUID(),
    sequence: before?.sequence ?? 0,
    collecting: false,
    base: before?.base ?? null,
    delta: before?.delta ?? new Map(),
  };
  let lost = false;
  /** A version of ours was sent, and nobody knows whether it arrived, or still will. */
  let unsure = false;

  function lose(): never {
    lost = true;
    throw new ClaimLost();
  }

  /** Replaces the version that is ours. An answer that never came is looked for in the bucket. */
  async function write(next: Head): Promise<void> {
    if (lost) throw new ClaimLost();
    const bytes = await codec.seal(next);
    unsure = true;
    for (let attempt = 1; ; attempt++) {
      try {
        tag = await store.replace(key, bytes, tag);
        break;
      } catch (error) {
        const there = await readOwn(error);
        if (there.head?.commit === next.commit) break;
        // A version that an earlier call of ours left without our knowing: the store holds it for ours, so go on from it.
        if (!(error instanceof StaleVersion) || attempt >= MAX_ATTEMPTS) throw unavailable(error);
      }
    }
    unsure = false;
    head = next;
  }

  async function put(content: Content): Promise<void> {
    const next = { ...head, collecting: false, ...content };
    await write({ ...next, commit: crypto.randomUUID(), sequence: head.sequence + 1 });
  }

  let turns: Promise<unknown> = Promise.resolve();
  async function inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = turns.then(work);
    turns = turn.catch(() => {});
    return turn;
  }

  /** What is in the bucket after a failure, if it is this process's; `tag` is its tag then. */
  async function readOwn(failure: unknown): Promise<{ readonly head: Head | null }> {
    const there = await store.read(key).catch(() => {
      throw unavailable(failure);
    });
    if ((there?.tag ?? null) === tag) return { head: null };
    if (there === null) lose();
    const theirs = await codec.open(there.bytes);
    if (theirs.run !== run) lose();
    ({ tag } = there);
    return { head: theirs };
  }

  await write(head);

  return {
    before,
    /** As it is in the bucket. */
    get head(): Head {
      return head;
    },
    get lost(): boolean {
      return lost;
    },

    /** The bucket has it when this resolves. */
    put: async (content: Content): Promise<void> => inTurn(async () => put(content)),

    /** The bucket has what `head` says when this resolves. Throws ClaimLost when somebody else has written it. */
    check: async (): Promise<void> =>
      inTurn(async () => {
        if (lost) throw new ClaimLost();
        if (!unsure) {
          const now = await store.tag(key);
          if (now === tag) return;
          await readOwn(new Error(`${key} has another tag`));
        }
        // An earlier version of ours is there, or may yet come: from the next one on, the store refuses it.
        await put(head);
      }),
  };
}

function missing(): AppError {
  return new AppError(
    "internal",
    "The bucket has had this namespace's files, and has them no more: is [storage] another bucket or prefix now?",
  );
}

function contested(): AppError {
  return new AppError("unavailable", "Another host is busy with this namespace; try again.", {
    retryAfterS: 1,
  });
}

function unavailable(error: unknown): unknown {
  if (error instanceof AppError) return error;
  return new AppError("unavailable", "The bucket does not answer; nothing can be changed until it does.", {
    retryAfterS: 2,
    cause: error,
  });
}
