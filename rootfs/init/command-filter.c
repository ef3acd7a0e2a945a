/*
 * The seccomp filter of every command of an exec sandbox, as a table.
 *
 * gVisor is the wall around the sandbox; this one stands between a command and what the init may do in it (mounts,
 * namespaces), and takes away what no command of ours needs. What is not named is allowed: gVisor's own table of calls is
 * the list of what exists.
 */
#include "filter.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>

/* Newer than the headers of the oldest host that builds this. */
enum {
	NR_quotactl_fd = 443,
	NR_statmount = 457,
	NR_listmount = 458,
	NR_open_tree_attr = 467,
	NEW_TIME = 0x80, /* in unshare; clone has the signal there */
};

/* Sorted by number: the program is a search through it. */
static const struct rule rules[] = {
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

const struct sock_fprog *command_filter(void)
{
	return filter_program(rules, sizeof rules / sizeof *rules);
}
