import { NR, syscall } from "./libc.ts";

const SOL_SOCKET = 1;
const SO_PEERCRED = 17;

export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/**
 * Who is at the other end of a unix socket, as the kernel noted it: at connect() for the side that listens, at listen()
 * for the side that connects. Take uid for a decision; the pid may be another process's by now.
 */
export function peerCredentials(fd: number): PeerCredentials {
  const credentials = new Int32Array(new ArrayBuffer(12));
  const length = new Uint32Array(new ArrayBuffer(4));
  length[0] = credentials.byteLength;
  syscall("getsockopt SO_PEERCRED", NR.getsockopt, fd, SOL_SOCKET, SO_PEERCRED, credentials, length);
  const [pid = 0, uid = -1, gid = -1] = credentials;
  // A socket without credentials (not AF_UNIX, or unconnected) answers uid -1. A pid 0 is a peer in another PID namespace.
  if (length[0] !== 12 || uid === -1) throw new Error("the socket has no peer credentials");
  return { pid, uid, gid };
}
