#define _GNU_SOURCE
#include "confine.h"
#include "filter.h"
#include "raw.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	OPEN_FILES = 1024,
	LAST_CAPABILITY = 63,
	/* Where await.c finds the channel, and a stdin for a command that has one: both are closed before it starts. */
	CHANNEL_FD = 3,
	INPUT_FD = 4,
	/* Of the kernel's signal set; libc's is larger. */
	SIGNAL_SET_BYTES = 8,
};

static char tmpfs_options[64];

static void must(bool done, const char *step)
{
	if (!done)
		give_up(EXIT_REFUSED, step, strerror(errno));
}

static void limit(__rlimit_resource_t resource, rlim_t value, const char *step)
{
	const struct rlimit both = {value, value};
	must(setrlimit(resource, &both) == 0, step);
}

void confine_self(const struct limits *limits)
{
	int length = snprintf(tmpfs_options, sizeof tmpfs_options, "mode=1777,size=%um", limits->tmp_mb);
	must(length > 0 && (size_t)length < sizeof tmpfs_options, "name the size of /tmp");
	command_filter();

	limit(RLIMIT_NOFILE, OPEN_FILES, "limit open files");
	limit(RLIMIT_NPROC, limits->processes, "limit processes");
	limit(RLIMIT_FSIZE, (rlim_t)limits->file_mb << 20, "limit file size");
	limit(RLIMIT_CORE, 0, "limit core files");
	umask(022);

	/* So that what is mounted for one command reaches neither init nor another command. */
	must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, "make mounts private");
	/* Init keeps its capabilities: this bounds what an execve can give. The kernel knows fewer: EINVAL after its last. */
	for (unsigned long capability = 0; capability <= LAST_CAPABILITY; capability++)
		must(prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0 || errno == EINVAL, "empty the bounding set");
	must(setgroups(0, NULL) == 0, "clear groups");
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "set no_new_privs");
	/* A command is in another PID namespace and has another uid; this is one wall more before our memory. */
	must(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0, "set not dumpable");
}

/* ---- from here on: the new process. No libc but what is in raw.h. ---- */

/* Says to init what was refused, and ends. */
_Noreturn static void refuse(int channel, const char *step)
{
	char type = MESSAGE_REFUSED;
	size_t length = 0;
	while (step[length])
		length++;
	struct iovec parts[2] = {{&type, 1}, {(void *)(uintptr_t)step, length}};
	RAW(SYS_writev, channel, parts, 2);
	for (;;)
		RAW(SYS_exit_group, EXIT_REFUSED);
}

#define MUST(step, call)                                                                                             \
	do {                                                                                                         \
		if ((call) < 0)                                                                                      \
			refuse(channel, step);                                                                       \
	} while (0)

static void mount_own(int channel)
{
	MUST("mount /tmp", RAW(SYS_mount, "tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, tmpfs_options));
	MUST("mount /dev/shm", RAW(SYS_mount, "tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, tmpfs_options));
	MUST("mount /dev/pts", RAW(SYS_mount, "devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666"));
	MUST("mount /proc", RAW(SYS_mount, "proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
}

/* With the bounding set empty and no groups from init on. */
static void become_tenant(int channel)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	const struct __user_cap_data_struct none[2] = {{0}, {0}};
	MUST("set gid", RAW(SYS_setresgid, TENANT_ID, TENANT_ID, TENANT_ID));
	MUST("set uid", RAW(SYS_setresuid, TENANT_ID, TENANT_ID, TENANT_ID));
	MUST("empty the capability sets", RAW(SYS_capset, &head, none));
}

/*
 * Makes the shell's stdio and sends init its ends. As the tenant, because a command may open its own stdio again
 * (/dev/stdout), which the kernel allows to the owner of the pipe.
 */
static void make_stdio(int channel)
{
	int in[2], out[2], err[2];
	long proc = RAW(SYS_open, "/proc", O_RDONLY | O_DIRECTORY);
	long null = RAW(SYS_open, "/dev/null", O_RDONLY);
	MUST("open /proc", proc);
	MUST("open /dev/null", null);
	MUST("make stdin", RAW(SYS_pipe2, in, 0));
	MUST("make stdout", RAW(SYS_pipe2, out, 0));
	MUST("make stderr", RAW(SYS_pipe2, err, 0));

	char type = MESSAGE_BORN;
	struct iovec body = {&type, 1};
	union {
		struct cmsghdr head;
		uint8_t bytes[CMSG_SPACE(BORN_FDS * sizeof(int))];
	} control = {.head = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(BORN_FDS * sizeof(int))}};
	int *fds = (int *)CMSG_DATA(&control.head);
	fds[BORN_STDIN] = in[1];
	fds[BORN_STDOUT] = out[0];
	fds[BORN_STDERR] = err[0];
	fds[BORN_PROC] = (int)proc;
	const struct msghdr message = {
		.msg_iov = &body, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	MUST("hand over stdio", RAW(SYS_sendmsg, channel, &message, MSG_NOSIGNAL));

	/* Init itself has 0 to 3, so nothing of ours lies there; 4 may be one of ours, and comes last. */
	MUST("place stdin", RAW(SYS_dup2, null, 0));
	MUST("place stdout", RAW(SYS_dup2, out[1], 1));
	MUST("place stderr", RAW(SYS_dup2, err[1], 2));
	MUST("place the channel", RAW(SYS_dup2, channel, CHANNEL_FD));
	MUST("place the input", RAW(SYS_dup2, in[0], INPUT_FD));
	MUST("close descriptors", RAW(SYS_close_range, INPUT_FD + 1, ~0U, 0));
}

int confine_and_exec(void *argument)
{
	/* The command takes this one's place; see spare.bash for when it doesn't. BASH_ENV is still set if it never came. */
	static const char *const arguments[] = {
		"bash", "-c", "[[ -v BASH_ENV ]] && exit 71; exec -a bash /bin/bash -c \"$BASH_EXECUTION_STRING\"", NULL};
	static const char *const environment[] = {
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/tmp/home",
		"USER=agent",
		"LOGNAME=agent",
		"SHELL=/bin/bash",
		"LANG=C.UTF-8",
		"TERM=dumb",
		"BASH_ENV=/usr/lib/cofferdam/spare.bash",
		NULL,
	};
	const uint64_t no_signals = 0;
	int channel = (int)(intptr_t)argument;

	mount_own(channel);
	become_tenant(channel);
	MUST("make HOME", RAW(SYS_mkdir, "/tmp/home", 0700));
	MUST("enter /home/agent", RAW(SYS_chdir, "/home/agent"));
	make_stdio(channel);
	channel = CHANNEL_FD;
	MUST("start a session", RAW(SYS_setsid, 0));
	/* Init only blocks signals, it ignores none. */
	MUST("unblock signals", RAW(SYS_rt_sigprocmask, SIG_SETMASK, &no_signals, NULL, SIGNAL_SET_BYTES));
	/* Last: it refuses some of the above. */
	MUST("load the filter", RAW(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, command_filter()));
	MUST("start /bin/bash", RAW(SYS_execve, "/bin/bash", arguments, environment));
	return 0;
}
