import { ptr } from "bun:ffi";
import { constants as os } from "node:os";
import { NR, syscall } from "./libc.ts";
import { TENANT } from "./users.ts";

export const SocketFamily = { unix: 1, inet: 2, inet6: 10 } as const;
export type SocketFamily = (typeof SocketFamily)[keyof typeof SocketFamily];

/** Calls that a role has no use for once it runs: another program, another identity, another view, the host itself. */
const REFUSED: Record<string, number> = {
  fork: 57,
  vfork: 58,
  execve: 59,
  ptrace: 101,
  syslog: 103,
  setuid: 105,
  setgid: 106,
  setreuid: 113,
  setregid: 114,
  setgroups: 116,
  setresuid: 117,
  setresgid: 119,
  setfsuid: 122,
  setfsgid: 123,
  capset: 126,
  mknod: 133,
  personality: 135,
  modify_ldt: 154,
  pivot_root: 155,
  adjtimex: 159,
  chroot: 161,
  acct: 163,
  settimeofday: 164,
  mount: 165,
  umount2: 166,
  swapon: 167,
  swapoff: 168,
  reboot: 169,
  sethostname: 170,
  setdomainname: 171,
  iopl: 172,
  ioperm: 173,
  init_module: 175,
  delete_module: 176,
  quotactl: 179,
  clock_settime: 227,
  kexec_load: 246,
  add_key: 248,
  request_key: 249,
  keyctl: 250,
  unshare: 272,
  perf_event_open: 298,
  fanotify_init: 300,
  open_by_handle_at: 304,
  clock_adjtime: 305,
  setns: 308,
  process_vm_readv: 310,
  process_vm_writev: 311,
  kcmp: 312,
  finit_module: 313,
  kexec_file_load: 320,
  bpf: 321,
  execveat: 322,
  userfaultfd: 323,
  io_uring_setup: 425,
  io_uring_enter: 426,
  io_uring_register: 427,
  open_tree: 428,
  move_mount: 429,
  fsopen: 430,
  fsconfig: 431,
  fsmount: 432,
  fspick: 433,
  pidfd_getfd: 438,
  mount_setattr: 442,
  quotactl_fd: 443,
};

/** Refused but for one use: api gives what it makes to the tenant, by its descriptor or, a symlink, by its name. */
const CHOWN = 92;
const FCHOWN = 93;
const LCHOWN = 94;
const FCHOWNAT = 260;
/** Refused but for FIFOs, which api makes for runs. */
const MKNODAT = 259;
const S_IFMT = 0o170000;
const S_IFIFO = 0o10000;
const SOCKET = 41;
const SOCKETPAIR = 53;
const CLONE = 56;
const CLONE3 = 435;
const CLONE_THREAD = 0x10000;

// The classic BPF of seccomp(2): struct seccomp_data has nr at 0, arch at 4, args from 16.
const LOAD = 0x20;
const JUMP_EQUAL = 0x15;
const JUMP_GREATER_EQUAL = 0x35;
const JUMP_SET = 0x45;
const AND = 0x54;
const RETURN = 0x06;
const NR_OFFSET = 0;
const ARCH_OFFSET = 4;
const FIRST_ARGUMENT = 16;
const SECOND_ARGUMENT = 24;
const THIRD_ARGUMENT = 32;
const FOURTH_ARGUMENT = 40;
const AUDIT_ARCH_X86_64 = 0xc000003e;
const X32_BIT = 0x40000000;
const ALLOW = 0x7fff0000;
const KILL_PROCESS = 0x80000000;
const refuse = (errno: number) => 0x00050000 | errno;

const SECCOMP_SET_MODE_FILTER = 1;
const SECCOMP_FILTER_FLAG_TSYNC = 1;

type Instruction = readonly [code: number, ifTrue: number, ifFalse: number, value: number];

/**
 * Forbids the whole process, all threads at once, to start another process or to change what it is. `families` are
 * the only sockets it may make, and the tenant is the only one it may give a file to. It needs no_new_privs, and there is no way back.
 */
export function sealProcess(families: readonly SocketFamily[]): void {
  const program = filter(families);
  const code = new DataView(new ArrayBuffer(program.length * 8));
  for (const [index, [opcode, ifTrue, ifFalse, value]] of program.entries()) {
    code.setUint16(index * 8, opcode, true);
    code.setUint8(index * 8 + 2, ifTrue);
    code.setUint8(index * 8 + 3, ifFalse);
    code.setUint32(index * 8 + 4, value, true);
  }
  const header = new DataView(new ArrayBuffer(16));
  header.setUint16(0, program.length, true);
  header.setBigUint64(8, BigInt(ptr(code)), true);
  const unsynced = syscall("seccomp", NR.seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, header);
  if (unsynced !== 0) throw new Error(`seccomp: thread ${unsynced} cannot take the filter`);
}

function filter(families: readonly SocketFamily[]): Instruction[] {
  const family = (): Instruction[] => [
    [LOAD, 0, 0, FIRST_ARGUMENT],
    ...families.flatMap((number): Instruction[] => [
      [JUMP_EQUAL, 0, 1, number],
      [RETURN, 0, 0, ALLOW],
    ]),
    [RETURN, 0, 0, refuse(os.errno.EAFNOSUPPORT)],
  ];
  return [
    [LOAD, 0, 0, ARCH_OFFSET],
    [JUMP_EQUAL, 1, 0, AUDIT_ARCH_X86_64],
    [RETURN, 0, 0, KILL_PROCESS],
    [LOAD, 0, 0, NR_OFFSET],
    [JUMP_GREATER_EQUAL, 0, 1, X32_BIT],
    [RETURN, 0, 0, KILL_PROCESS],
    ...Object.values(REFUSED).flatMap((number) => when(number, [[RETURN, 0, 0, refuse(os.errno.EPERM)]])),
    // Its flags are in memory that a filter can't read; libc then falls back to clone.
    ...when(CLONE3, [[RETURN, 0, 0, refuse(os.errno.ENOSYS)]]),
    ...when(CLONE, [
      [LOAD, 0, 0, FIRST_ARGUMENT],
      [JUMP_SET, 0, 1, CLONE_THREAD],
      [RETURN, 0, 0, ALLOW],
      [RETURN, 0, 0, refuse(os.errno.EPERM)],
    ]),
    // Else a role with CAP_CHOWN could leave a program that is root's and setuid for somebody else to run.
    ...[CHOWN, LCHOWN].flatMap((number) => when(number, [[RETURN, 0, 0, refuse(os.errno.EPERM)]])),
    ...when(FCHOWN, toTheTenant(SECOND_ARGUMENT, THIRD_ARGUMENT)),
    // For symlinks.
    ...when(FCHOWNAT, toTheTenant(THIRD_ARGUMENT, FOURTH_ARGUMENT)),
    ...when(MKNODAT, [
      [LOAD, 0, 0, THIRD_ARGUMENT],
      [AND, 0, 0, S_IFMT],
      [JUMP_EQUAL, 0, 1, S_IFIFO],
      [RETURN, 0, 0, ALLOW],
      [RETURN, 0, 0, refuse(os.errno.EPERM)],
    ]),
    ...when(SOCKET, family()),
    ...when(SOCKETPAIR, family()),
    [RETURN, 0, 0, ALLOW],
  ];
}

function toTheTenant(uid: number, gid: number): Instruction[] {
  return [
    [LOAD, 0, 0, uid],
    [JUMP_EQUAL, 0, 3, TENANT.uid],
    [LOAD, 0, 0, gid],
    [JUMP_EQUAL, 0, 1, TENANT.gid],
    [RETURN, 0, 0, ALLOW],
    [RETURN, 0, 0, refuse(os.errno.EPERM)],
  ];
}

/** `body` ends in a return, so that what follows is for the other calls. */
function when(nr: number, body: readonly Instruction[]): Instruction[] {
  return [[JUMP_EQUAL, 0, body.length, nr], ...body];
}
