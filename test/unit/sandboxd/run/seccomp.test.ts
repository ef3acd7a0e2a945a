import { expect, test } from "bun:test";
import { seccompProfile } from "../../../../src/sandboxd/run/seccomp.ts";

const allowed = new Set(seccompProfile.syscalls.flatMap(({ names }) => [...names] as string[]));

test("346 calls are allowed, each named once, and all else is an error", () => {
  expect(seccompProfile.defaultAction).toBe("SCMP_ACT_ERRNO");
  expect(seccompProfile.syscalls.map(({ action }) => action)).toEqual(
    seccompProfile.syscalls.map(() => "SCMP_ACT_ALLOW"),
  );
  expect(allowed.size).toBe(346);
  expect(seccompProfile.syscalls.flatMap(({ names }) => [...names] as string[])).toHaveLength(346);
});

test("none of the catastrophic calls is", () => {
  const catastrophic =
    "mount umount umount2 pivot_root chroot fsopen fsconfig fsmount fspick open_tree move_mount mount_setattr " +
    "kexec_load kexec_file_load init_module finit_module delete_module reboot swapon swapoff acct quotactl " +
    "settimeofday clock_settime clock_adjtime adjtimex iopl ioperm syslog sethostname setdomainname " +
    "bpf perf_event_open ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd userfaultfd " +
    "add_key request_key keyctl unshare setns clone3 io_uring_setup io_uring_enter io_uring_register " +
    "open_by_handle_at name_to_handle_at fanotify_init lookup_dcookie modify_ldt vhangup nfsservctl uselib";
  expect(catastrophic.split(" ").filter((name) => allowed.has(name))).toEqual([]);
  // The control: what every program needs.
  for (const name of ["read", "write", "openat", "execve", "mmap", "futex", "connect", "clone"])
    expect([name, allowed.has(name)]).toEqual([name, true]);
});
