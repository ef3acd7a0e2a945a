import { closeSync, fdatasync, ftruncateSync, openSync, readSync, writeSync } from "node:fs";
import { z } from "zod";
import type { CredentialId, RunId } from "../ids.ts";
import { credentialId } from "../ids.ts";
import type { Log } from "../log.ts";
import { gatewayRecord, type GatewayRecord } from "../protocol/gateway.ts";

/** Of what a request may cost at most, before it is sent on. Money in billionths of a dollar. */
const reservation = z.strictObject({
  id: z.int().min(1),
  at: z.int(),
  credential: credentialId.schema,
  model: z.string(),
  route: z.string(),
  input_tokens: z.int().min(0),
  output_tokens: z.int().min(0),
  usd_nano: z.int().min(0),
});
export type Reservation = z.infer<typeof reservation>;

/** One line of the file. */
const line = z.union([
  /** What api is told; `settles` a reservation. */
  z.strictObject({ record: gatewayRecord, settles: z.int().optional() }),
  z.strictObject({ reserved: reservation }),
  /** What a lane needs after a restart of the gateway; null: not any more. */
  z.strictObject({ kept: z.string(), value: z.unknown() }),
]);
type Line = z.infer<typeof line>;

type Unnumbered<R> = R extends GatewayRecord ? Omit<R, "run" | "seq" | "at"> : never;
/** A record before it has its place in the journal. */
export type NewRecord = Unnumbered<GatewayRecord>;
export type LlmRecord = Extract<NewRecord, { kind: "llm" }>;

/** Of one credential in one run: settled, and reserved by what is under way. */
export interface Spent {
  readonly requests: number;
  readonly input_tokens: number;
  readonly output_tokens: number;
  readonly usd_nano: number;
}

export interface Journal {
  readonly run: RunId;
  /** So much is written that nothing more shall be begun for this run. */
  readonly full: () => boolean;
  /** Adds what was done or refused. */
  append(record: NewRecord): void;

  spent(credential: CredentialId): Spent;
  /**
   * Takes what a request may cost off the budget, before it is sent on: whoever looks at `spent` and reserves without
   * awaiting anything in between can't be over with others. It is in the file when this returns. Throws when it can't be.
   */
  reserve(wanted: Omit<Reservation, "id" | "at">): Reservation;
  /** What it cost in the end, in its place. A second time does nothing. */
  settle(of: Reservation, record: LlmRecord): void;

  /** Those that are not settled. */
  open(): number;
  /** Settles all of those as if they had cost what they might. */
  settleRest(): void;

  /** What all connections of the web proxy have carried, as far as there are records of it. */
  egressBytes(): number;

  /** Keeps JSON over a restart of the gateway, under a name; on the disk when it resolves. Secrets only sealed. */
  keep(name: string, value: unknown): Promise<void>;
  drop(name: string): void;
  kept(): ReadonlyMap<string, unknown>;

  /** The records after that one, at most about so many bytes of them; not before the disk has them. */
  recordsAfter(seq: number, maxBytes: number): Promise<GatewayRecord[]>;
  lastSeq(): number;
  close(): void;
}

/** Past it no more is begun; what is under way still gets its line. */
const FULL_BYTES = 128 * 1024 * 1024;
/** Records held in memory for api, which asks for them all the time; older ones are read from the file. */
const HELD = 256;
/** How much of the file is in memory at once. */
const PIECE_BYTES = 1024 * 1024;
const NOTHING: Spent = { requests: 0, input_tokens: 0, output_tokens: 0, usd_nano: 0 };

export interface JournalOptions {
  readonly path: string;
  readonly run: RunId;
  readonly log: Log;
  readonly onRecord?: () => void;
}

/**
 * A run's journal: the truth of what it spent, did and was refused. Only appended to, so whenever the gateway is killed the
 * lines up to there are whole; a reservation that nothing has settled then counts in full.
 */
export function openJournal({ path, run, log, onRecord = () => {} }: JournalOptions): Journal {
  const fd = openSync(path, "a+", 0o600);
  const spent = new Map<CredentialId, Spent>();
  const open = new Map<number, Reservation>();
  const kept = new Map<string, unknown>();
  const held: GatewayRecord[] = [];
  /** Where in the file the line of every so many records begins, the first one's too. */
  const places: { readonly seq: number; readonly at: number }[] = [];
  const state = { seq: 0, reservation: 0, bytes: 0, egressBytes: 0, closed: false };
  const sync = createSync(fd, () => state.closed);

  let bad = 0;
  for (const { line, at, bytes } of readLines(fd, 0)) {
    if (line === null) bad += 1;
    else take(line, at);
    state.bytes = at + bytes;
  }
  if (bad > 0) log.error("a run's journal has lines that can't be read", { run, lines: bad });
  // What a power cut left of a line.
  ftruncateSync(fd, state.bytes);
  settleRest();

  /** What a line means, whether it was just written or is read again; `at` is where in the file it begins. */
  function take(line: Line, at: number): void {
    if ("kept" in line) {
      if (line.value === null) kept.delete(line.kept);
      else kept.set(line.kept, line.value);
    } else if ("reserved" in line) {
      const { reserved } = line;
      state.reservation = Math.max(state.reservation, reserved.id);
      open.set(reserved.id, reserved);
      add(reserved.credential, { ...reserved, requests: 1 });
    } else {
      const { record, settles } = line;
      if (state.seq % HELD === 0) places.push({ seq: record.seq, at });
      state.seq = record.seq;
      held.push(record);
      if (held.length > HELD) held.splice(0, held.length - HELD);
      const reserved = settles === undefined ? undefined : open.get(settles);
      if (reserved !== undefined) {
        open.delete(reserved.id);
        add(reserved.credential, negative({ ...reserved, requests: 1 }));
      }
      if (record.kind === "llm") add(record.credential, { ...record, requests: 1 });
      if (record.kind === "egress") state.egressBytes += record.bytes_sent + record.bytes_received;
    }
  }

  function add(credential: CredentialId, more: Spent): void {
    const before = spent.get(credential) ?? NOTHING;
    spent.set(credential, {
      requests: before.requests + more.requests,
      input_tokens: before.input_tokens + more.input_tokens,
      output_tokens: before.output_tokens + more.output_tokens,
      usd_nano: before.usd_nano + more.usd_nano,
    });
  }

  function write(line: Line): void {
    if (state.closed) throw new Error("the journal is closed");
    const at = state.bytes;
    const bytes = Buffer.from(`${JSON.stringify(line)}\n`);
    try {
      if (writeSync(fd, bytes) !== bytes.length) throw new Error("short write");
    } catch (error) {
      // A torn line would take the next one with it.
      ftruncateSync(fd, at);
      throw error;
    }
    state.bytes += bytes.length;
    take(line, at);
  }

  function addRecord(record: NewRecord, settles?: number): void {
    const numbered = { run, seq: state.seq + 1, at: Date.now(), ...record };
    const line = settles === undefined ? { record: numbered } : { record: numbered, settles };
    try {
      write(line);
    } catch (error) {
      // It happened all the same: api is told, and until the gateway starts anew it counts.
      log.error("a record can't be written to a run's journal", { run, error });
      take(line, state.bytes);
    }
    sync.soon();
    onRecord();
  }

  function settle(of: Reservation, record: LlmRecord): void {
    if (open.has(of.id)) addRecord(record, of.id);
  }

  function settleRest(): void {
    for (const lost of open.values()) settle(lost, lostRequest(lost));
  }

  return {
    run,
    full: () => state.bytes >= FULL_BYTES,
    append: (record) => addRecord(record),
    spent: (credential) => spent.get(credential) ?? NOTHING,
    reserve(wanted) {
      const reserved = { id: state.reservation + 1, at: Date.now(), ...wanted };
      write({ reserved });
      sync.soon();
      return reserved;
    },
    settle,
    open: () => open.size,
    settleRest,
    egressBytes: () => state.egressBytes,
    async keep(name, value) {
      write({ kept: name, value });
      await sync.done();
    },
    drop(name) {
      if (!kept.has(name)) return;
      write({ kept: name, value: null });
      sync.soon();
    },
    kept: () => kept,
    async recordsAfter(seq, maxBytes) {
      if (seq >= state.seq) return [];
      await sync.done();
      const [oldest] = held;
      const isHeld = oldest !== undefined && oldest.seq <= seq + 1;
      const from = places.findLast((place) => place.seq <= seq + 1)?.at ?? 0;
      return upTo(maxBytes, isHeld ? held : recordsIn(fd, from), seq);
    },
    lastSeq: () => state.seq,
    close() {
      state.closed = true;
      closeSync(fd);
    },
  };
}

/** Of a request during which the gateway ended: nobody knows what it cost, so it cost what it might have. */
function lostRequest(reserved: Reservation): LlmRecord {
  const { credential, model, route, input_tokens, output_tokens, usd_nano } = reserved;
  return {
    kind: "llm",
    credential,
    model,
    route,
    status: null,
    input_tokens,
    output_tokens,
    cache_read_tokens: 0,
    cache_write_tokens: 0,
    usd_nano,
    estimated: true,
    first_byte_ms: null,
    duration_ms: 0,
    content: null,
  };
}

function negative({ requests, input_tokens, output_tokens, usd_nano }: Spent): Spent {
  return {
    requests: -requests,
    input_tokens: -input_tokens,
    output_tokens: -output_tokens,
    usd_nano: -usd_nano,
  };
}

/** Flushes of one file, one at a time: what comes during one shares the next. */
function createSync(fd: number, isClosed: () => boolean) {
  const state = { next: null as Promise<void> | null, running: Promise.resolve() };

  async function flushAfter(before: Promise<void>): Promise<void> {
    await before;
    state.next = null;
    if (isClosed()) return;
    await new Promise<void>((resolve, reject) => {
      fdatasync(fd, (error) => (error === null ? resolve() : reject(error)));
    });
  }

  function done(): Promise<void> {
    if (state.next !== null) return state.next;
    const next = flushAfter(state.running);
    state.next = next;
    state.running = next.catch(() => {});
    return next;
  }

  return {
    done,
    soon(): void {
      done().catch(() => {});
    },
  };
}

interface ReadLine {
  /** null for one that can't be read. */
  readonly line: Line | null;
  readonly at: number;
  /** With its end. */
  readonly bytes: number;
}

/** The whole lines of a file from one's beginning on. */
function* readLines(fd: number, from: number): Generator<ReadLine> {
  let rest = Buffer.alloc(0);
  for (let at = from; ;) {
    const piece = Buffer.alloc(PIECE_BYTES);
    const count = readSync(fd, piece, 0, piece.length, at + rest.length);
    if (count === 0) return;
    const all = Buffer.concat([rest, piece.subarray(0, count)]);
    let begin = 0;
    for (let end = all.indexOf(NEWLINE); end !== -1; end = all.indexOf(NEWLINE, begin)) {
      const parsed = line.safeParse(parseJson(all.toString("utf8", begin, end)));
      yield { line: parsed.success ? parsed.data : null, at: at + begin, bytes: end + 1 - begin };
      begin = end + 1;
    }
    rest = all.subarray(begin);
    at += begin;
  }
}

const NEWLINE = 0x0a;

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function* recordsIn(fd: number, from: number): Generator<GatewayRecord> {
  for (const { line } of readLines(fd, from)) if (line !== null && "record" in line) yield line.record;
}

function upTo(maxBytes: number, records: Iterable<GatewayRecord>, seq: number): GatewayRecord[] {
  const chosen: GatewayRecord[] = [];
  let bytes = 0;
  for (const record of records) {
    if (record.seq <= seq) continue;
    bytes += JSON.stringify(record).length;
    if (chosen.length > 0 && bytes > maxBytes) break;
    chosen.push(record);
  }
  return chosen;
}
