/*
 * The seccomp filter of every command, built from the table below.
 *
 * gVisor is the wall around the sandbox; this one stands between a command and what the init may do in it (mounts,
 * namespaces), and takes away what no command of ours needs. What is not named is allowed: gVisor's own table of calls is
 * the list of what exists.
 */
#include "filter.h"

#include <assert.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/syscall.h>

/* Newer than the headers of the oldest host that builds this. */
enum {
	NR_quotactl_fd = 443,
	NR_statmount = 457,
	NR_listmount = 458,
	NR_open_tree_attr = 467,
	/* What comes after is unknown to us and answered as not there. So are the numbers of x32, which are far beyond. */
	LAST_KNOWN = NR_open_tree_attr,
	NEW_TIME = 0x80, /* in unshare; clone has the signal there */
};

#define NEW_NAMESPACES                                                                                              \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)

/* Some are refused only by the low half of their first argument; the kernel takes all of these as 32 bits. */
enum when { ALWAYS, UNLESS_EQUAL, WHEN_ANY_OF };

/* Sorted by number: the program is a search through it. */
static const struct rule {
	uint16_t call, error;
	enum when when;
	uint32_t value;
} rules[] = {
	{SYS_socket, EACCES, UNLESS_EQUAL, AF_UNIX},
	{SYS_socketpair, EACCES, UNLESS_EQUAL, AF_UNIX},
	{SYS_clone, EPERM, WHEN_ANY_OF, NEW_NAMESPACES},
	{SYS_ptrace, EPERM, ALWAYS, 0},
	/* All ones only asks. */
	{SYS_personality, EPERM, UNLESS_EQUAL, 0xffffffff},
	{SYS_vhangup, EPERM, ALWAYS, 0},
	{SYS_modify_ldt, EPERM, ALWAYS, 0},
	{SYS_pivot_root, EPERM, ALWAYS, 0},
	{SYS_adjtimex, EPERM, ALWAYS, 0},
	{SYS_chroot, EPERM, ALWAYS, 0},
	{SYS_acct, EPERM, ALWAYS, 0},
	{SYS_settimeofday, EPERM, ALWAYS, 0},
	{SYS_mount, EPERM, ALWAYS, 0},
	{SYS_umount2, EPERM, ALWAYS, 0},
	{SYS_swapon, EPERM, ALWAYS, 0},
	{SYS_swapoff, EPERM, ALWAYS, 0},
	{SYS_reboot, EPERM, ALWAYS, 0},
	{SYS_sethostname, EPERM, ALWAYS, 0},
	{SYS_setdomainname, EPERM, ALWAYS, 0},
	{SYS_iopl, EPERM, ALWAYS, 0},
	{SYS_ioperm, EPERM, ALWAYS, 0},
	{SYS_init_module, EPERM, ALWAYS, 0},
	{SYS_delete_module, EPERM, ALWAYS, 0},
	{SYS_quotactl, EPERM, ALWAYS, 0},
	{SYS_clock_settime, EPERM, ALWAYS, 0},
	{SYS_kexec_load, EPERM, ALWAYS, 0},
	{SYS_add_key, EPERM, ALWAYS, 0},
	{SYS_request_key, EPERM, ALWAYS, 0},
	{SYS_keyctl, EPERM, ALWAYS, 0},
	{SYS_migrate_pages, EPERM, ALWAYS, 0},
	{SYS_unshare, EPERM, WHEN_ANY_OF, NEW_NAMESPACES | NEW_TIME},
	{SYS_move_pages, EPERM, ALWAYS, 0},
	{SYS_perf_event_open, EPERM, ALWAYS, 0},
	{SYS_fanotify_init, EPERM, ALWAYS, 0},
	{SYS_name_to_handle_at, EPERM, ALWAYS, 0},
	{SYS_open_by_handle_at, EPERM, ALWAYS, 0},
	{SYS_clock_adjtime, EPERM, ALWAYS, 0},
	{SYS_setns, EPERM, ALWAYS, 0},
	{SYS_process_vm_readv, EPERM, ALWAYS, 0},
	{SYS_process_vm_writev, EPERM, ALWAYS, 0},
	{SYS_kcmp, EPERM, ALWAYS, 0},
	{SYS_finit_module, EPERM, ALWAYS, 0},
	{SYS_kexec_file_load, EPERM, ALWAYS, 0},
	{SYS_bpf, EPERM, ALWAYS, 0},
	{SYS_userfaultfd, EPERM, ALWAYS, 0},
	{SYS_io_uring_setup, EPERM, ALWAYS, 0},
	{SYS_io_uring_enter, EPERM, ALWAYS, 0},
	{SYS_io_uring_register, EPERM, ALWAYS, 0},
	{SYS_open_tree, EPERM, ALWAYS, 0},
	{SYS_move_mount, EPERM, ALWAYS, 0},
	{SYS_fsopen, EPERM, ALWAYS, 0},
	{SYS_fsconfig, EPERM, ALWAYS, 0},
	{SYS_fsmount, EPERM, ALWAYS, 0},
	{SYS_fspick, EPERM, ALWAYS, 0},
	/* Its flags lie in memory, where a filter can't look; libc falls back to clone. */
	{SYS_clone3, ENOSYS, ALWAYS, 0},
	{SYS_pidfd_getfd, EPERM, ALWAYS, 0},
	{SYS_process_madvise, EPERM, ALWAYS, 0},
	{SYS_mount_setattr, EPERM, ALWAYS, 0},
	{NR_quotactl_fd, EPERM, ALWAYS, 0},
	{NR_statmount, EPERM, ALWAYS, 0},
	{NR_listmount, EPERM, ALWAYS, 0},
	{NR_open_tree_attr, EPERM, ALWAYS, 0},
};
enum { RULES = sizeof rules / sizeof *rules };

static struct sock_filter code[16 + 7 * RULES];
static unsigned short used;

static void emit(uint16_t op, uint32_t value, uint8_t when_true, uint8_t when_false)
{
	assert(used < sizeof code / sizeof *code);
	code[used++] = (struct sock_filter){.code = op, .jt = when_true, .jf = when_false, .k = value};
}

static void load(size_t offset)
{
	emit(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void answer(uint32_t action)
{
	emit(BPF_RET | BPF_K, action, 0, 0);
}

/* With the call's number loaded, and all rules but one ruled out. */
static void emit_rule(const struct rule *rule)
{
	emit(BPF_JMP | BPF_JEQ | BPF_K, rule->call, 1, 0);
	answer(SECCOMP_RET_ALLOW);
	if (rule->when != ALWAYS) {
		load(offsetof(struct seccomp_data, args));
		if (rule->when == UNLESS_EQUAL)
			emit(BPF_JMP | BPF_JEQ | BPF_K, rule->value, 0, 1);
		else
			emit(BPF_JMP | BPF_JSET | BPF_K, rule->value, 1, 0);
		answer(SECCOMP_RET_ALLOW);
	}
	answer(SECCOMP_RET_ERRNO | rule->error);
}

/* Halves rules[from..to): gVisor runs the program once for each call there is when it is loaded, so its depth counts. */
static void emit_search(unsigned from, unsigned to)
{
	if (to - from == 1) {
		emit_rule(&rules[from]);
		return;
	}
	unsigned middle = (from + to) / 2;
	unsigned short jump = used;
	emit(BPF_JMP | BPF_JGE | BPF_K, rules[middle].call, 0, 0);
	emit_search(from, middle);
	assert(used - jump - 1 <= UINT8_MAX);
	code[jump].jt = (uint8_t)(used - jump - 1);
	emit_search(middle, to);
}

const struct sock_fprog *filter_program(void)
{
	static struct sock_fprog program;
	if (program.filter)
		return &program;
	for (unsigned i = 1; i < RULES; i++)
		assert(rules[i - 1].call < rules[i].call);

	load(offsetof(struct seccomp_data, arch));
	emit(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
	answer(SECCOMP_RET_KILL_PROCESS);
	load(offsetof(struct seccomp_data, nr));
	emit(BPF_JMP | BPF_JGT | BPF_K, LAST_KNOWN, 0, 1);
	answer(SECCOMP_RET_ERRNO | ENOSYS);
	emit_search(0, RULES);
	program.len = used;
	program.filter = code;
	return &program;
}
