/**
 * The OCI seccomp profile of a run, which runsc enforces in the sandbox's kernel on every process of it: what is named is
 * allowed, all else is EPERM. It is Docker's default for a container without capabilities, less what could hurt a kernel
 * or reach another process: io_uring, ptrace and process_vm_*, the clock, name_to_handle_at, modify_ldt. So mount,
 * kexec_load, init_module, reboot, swapon, bpf, keyctl, unshare, setns and the like are denied.
 */
const CALLS = words(`
  accept accept4 access alarm arch_prctl bind brk capget capset chdir chmod chown clock_getres
  clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create
  epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
  execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod
  fchmodat fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat
  fstatfs fsync ftruncate futex futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64
  getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority
  getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday
  getuid getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy
  io_getevents io_pgetevents io_setup io_submit ioctl ioprio_get ioprio_set kill lchown lgetxattr link
  linkat listen listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise membarrier memfd_create
  mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify mq_open
  mq_timedreceive mq_timedsend mq_unlink mremap msgctl msgget msgrcv msgsnd msync munlock munlockall munmap
  nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc
  pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 pselect6 pwrite64 pwritev
  pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr
  rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
  rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max
  sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
  sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
  seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_robust_list
  set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid
  setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr shmat shmctl shmdt shmget
  shutdown sigaltstack signalfd signalfd4 socketpair splice stat statfs statx symlink symlinkat sync
  sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
  timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink
  unlinkat utime utimensat utimes vfork vmsplice wait4 waitid write writev
`);

/** Also in Docker's default, but of other ABIs or newer than runsc: it knows none of them and passes their names over. */
const UNKNOWN_TO_RUNSC = words(`
  _llseek _newselect chown32 clock_getres_time64 clock_gettime64 clock_nanosleep_time64 fadvise64_64
  fchown32 fcntl64 fstat64 fstatat64 fstatfs64 ftruncate64 futex_time64 futex_waitv getegid32 geteuid32
  getgid32 getgroups32 getresgid32 getresuid32 getuid32 io_pgetevents_time64 ipc landlock_add_rule
  landlock_create_ruleset landlock_restrict_self lchown32 lstat64 memfd_secret mmap2 mq_timedreceive_time64
  mq_timedsend_time64 ppoll_time64 process_mrelease pselect6_time64 recv recvmmsg_time64
  rt_sigtimedwait_time64 sched_rr_get_interval_time64 semtimedop_time64 send sendfile64 setfsgid32
  setfsuid32 setgid32 setgroups32 setregid32 setresgid32 setresuid32 setreuid32 setuid32 sigprocmask
  sigreturn socketcall stat64 statfs64 timer_gettime64 timer_settime64 timerfd_gettime64 timerfd_settime64
  truncate64 ugetrlimit utimensat_time64 waitpid
`);

/** CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET. */
const NEW_NAMESPACES = 0x7e020000;

/** Unix, IPv4, IPv6 and netlink, not packets or VSOCK. */
const ADDRESS_FAMILIES = [1, 2, 10, 16];

/** Linux, with or without a short uname or no address randomisation; all ones only asks. */
const PERSONALITIES = [0x0, 0x8, 0x20000, 0x20008, 0xffffffff];

/** runsc takes several conditions on one argument as "any of them". */
const firstIsAnyOf = (values: readonly number[]) =>
  values.map((value) => ({ index: 0, value, op: "SCMP_CMP_EQ" }));

export const seccompProfile = {
  defaultAction: "SCMP_ACT_ERRNO",
  architectures: ["SCMP_ARCH_X86_64"],
  syscalls: [
    { names: [...CALLS, ...UNKNOWN_TO_RUNSC], action: "SCMP_ACT_ALLOW" },
    { names: ["socket"], action: "SCMP_ACT_ALLOW", args: firstIsAnyOf(ADDRESS_FAMILIES) },
    { names: ["personality"], action: "SCMP_ACT_ALLOW", args: firstIsAnyOf(PERSONALITIES) },
    {
      names: ["clone"],
      action: "SCMP_ACT_ALLOW",
      args: [{ index: 0, value: NEW_NAMESPACES, valueTwo: 0, op: "SCMP_CMP_MASKED_EQ" }],
    },
  ],
} as const;

function words(text: string): string[] {
  return text.trim().split(/\s+/);
}
