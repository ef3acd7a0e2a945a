/**
 * The frames between api and a sandbox's init (rootfs/init), over the sandbox's stdio.
 *
 * A frame is a 12 byte header and a payload, little-endian:
 *   u32 length of the payload, u32 call, u8 type, 3 zero bytes.
 * `call` numbers one command among the many that may run at once. READY uses 0; each RUN uses a higher number than all
 * before it, so that a STDIN or KILL that crosses an EXIT is known for what it is (and ignored), and one for a call that
 * never was is a fault.
 * Either side ends the sandbox on anything that this file does not allow: there is no resynchronising.
 */
export const HEADER_BYTES = 12;
export const PROTOCOL_VERSION = 1;

/** The longest command text: a byte more than `bash -c` itself could take as one argument. */
export const MAX_COMMAND_BYTES = 128 * 1024;
/** The longest output or stdin piece in one frame. */
export const MAX_DATA_BYTES = 64 * 1024;
/** All the stdin of one call together. */
export const MAX_STDIN_BYTES = 1024 * 1024;
/** Commands running at once in one sandbox. */
export const MAX_CALLS = 64;

export const FrameType = {
  /**
   * api → init. Payload: u32 output cap in bytes per stream, u8 stdin (0 = /dev/null, 1 = STDIN frames follow), 3 zero
   * bytes, the command (may be empty, holds no NUL).
   */
  Run: 1,
  /** api → init, only for a RUN with stdin 1. Payload: up to MAX_DATA_BYTES; an empty one ends the input, none follows it. */
  Stdin: 2,
  /** api → init. No payload: kill everything the call started. An EXIT follows. A call that is over is ignored. */
  Kill: 3,
  /** init → api. Payload: u32 PROTOCOL_VERSION. Once, when a first spare shell waits. */
  Ready: 16,
  /** init → api. Payload: 1 to MAX_DATA_BYTES. */
  Stdout: 17,
  Stderr: 18,
  /** init → api, the last of a call: everything it started is dead. Payload: u32 status (128+n for a signal), u8 flags, 3 zero bytes. */
  Exit: 19,
} as const;

/** How the init itself ends: its exit status is that of `runsc run`. */
export const InitExit = {
  /** api closed its end. */
  Closed: 0,
  /** A wrong argument. */
  Usage: 64,
  /** A frame that this file does not allow. */
  BadFrame: 65,
  /** The kernel refused what a sandbox needs: nothing runs half confined. */
  Refused: 71,
} as const;

export const ExitFlag = { StdoutTruncated: 1, StderrTruncated: 2, Killed: 4 } as const;
