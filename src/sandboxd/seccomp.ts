/**
 * The OCI seccomp profile, enforced inside the sandbox's kernel on everything in it, the init included. It denies what
 * neither the init nor a command ever needs; the init then loads a stricter filter before each command, which also
 * closes what the init itself must keep: mount, umount2, unshare, clone with namespaces, setresuid, capset, seccomp.
 * runsc knows each of these names (it silently ignores one that it does not) and answers EPERM.
 */
const DENIED = [
  // The kernel itself: modules, another kernel, clocks, power, swap, accounting.
  "init_module",
  "finit_module",
  "delete_module",
  "kexec_load",
  "kexec_file_load",
  "reboot",
  "swapon",
  "swapoff",
  "acct",
  "quotactl",
  "settimeofday",
  "clock_settime",
  "clock_adjtime",
  "adjtimex",
  "syslog",
  "iopl",
  "ioperm",
  // Programs, tracing and memory of other processes.
  "bpf",
  "perf_event_open",
  "process_vm_readv",
  "process_vm_writev",
  "userfaultfd",
  "lookup_dcookie",
  "kcmp",
  // Keyrings are shared by all of one uid.
  "add_key",
  "request_key",
  "keyctl",
  // A second way to submit any system call, past the filters.
  "io_uring_setup",
  "io_uring_enter",
  "io_uring_register",
  // Ways to a file that pass by the mounts, or change them anew.
  "open_by_handle_at",
  "name_to_handle_at",
  "pivot_root",
  "chroot",
  "setns",
  "fsopen",
  "fspick",
  "fsconfig",
  "fsmount",
  "open_tree",
  "move_mount",
  "mount_setattr",
] as const;

export const seccompProfile = {
  defaultAction: "SCMP_ACT_ALLOW",
  architectures: ["SCMP_ARCH_X86_64"],
  syscalls: [{ names: DENIED, action: "SCMP_ACT_ERRNO" }],
} as const;
