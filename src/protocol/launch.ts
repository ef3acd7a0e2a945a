/**
 * What api writes into a run's FIFO `in`, for the first process of its sandbox (rootfs/init/run-init.c): frames of one
 * byte that says what it is, two bytes of length (little endian), and that many bytes. A frame is written by one call and
 * is at most PIPE_BUF long, so the kernel never tears or mixes them, whoever is killed in between.
 */
const MAX_FRAME_BYTES = 4096;
export const MAX_PAYLOAD_BYTES = MAX_FRAME_BYTES - 3;
/** Of all launch frames' payloads together. */
const MAX_LAUNCH_BYTES = 1024 * 1024;

export const FrameType = {
  /** Forget the launch frames that came before: an api that was killed had begun. */
  reset: 0x52,
  /** The next part of the launch block. */
  launch: 0x4c,
  /** The block is whole: start. A second one, after a restart of api, is passed over. */
  go: 0x47,
  /**
   * For the command's stdin: eight bytes (little endian) that say where in it the rest belongs, so that what is sent
   * again after a restart of api is passed over; all ones: after what came so far. Then its end.
   */
  data: 0x44,
  eof: 0x45,
  /** One byte: the number of a signal for the command's process group. */
  signal: 0x53,
} as const;

export interface Launch {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  /** false: its stdin is /dev/null. */
  readonly stdin: boolean;
  /** RLIMIT_NPROC, and RLIMIT_FSIZE in bytes. */
  readonly processes: number;
  readonly fileBytes: number;
}

/**
 * The launch block: strings that each end with a NUL, in this order: "1" (the version), cwd, "0" or "1" for stdin,
 * processes, fileBytes, the number of arguments, the arguments, the number of variables, then NAME=VALUE each.
 */
export function encodeLaunch({ argv, env, cwd, stdin, processes, fileBytes }: Launch): Uint8Array {
  const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  const strings = [
    "1",
    cwd,
    stdin ? "1" : "0",
    `${processes}`,
    `${fileBytes}`,
    `${argv.length}`,
    ...argv,
    `${variables.length}`,
    ...variables,
  ];
  if (strings.some((text) => text.includes("\0"))) throw new RangeError("a launch holds a NUL");
  const block = Buffer.from(strings.map((text) => `${text}\0`).join(""));
  if (block.length > MAX_LAUNCH_BYTES) throw new RangeError("a launch is too long");
  return block;
}

/** Of one data frame. */
export const MAX_DATA_BYTES = MAX_PAYLOAD_BYTES - 8;

/** `at`: the offset in the command's stdin; null to append. */
export function encodeData(at: number | null, bytes: Uint8Array): Uint8Array {
  const offset = Buffer.alloc(8, 0xff);
  if (at !== null) offset.writeBigUInt64LE(BigInt(at));
  return encodeFrame(FrameType.data, Buffer.concat([offset, bytes]));
}

export function encodeFrame(type: number, payload: Uint8Array = new Uint8Array()): Uint8Array {
  if (payload.length > MAX_PAYLOAD_BYTES) throw new RangeError("a frame is too long");
  return Buffer.concat([Buffer.of(type, payload.length & 0xff, payload.length >> 8), payload]);
}
