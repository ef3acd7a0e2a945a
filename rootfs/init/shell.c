#define _GNU_SOURCE
#include "shell.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static int child_ended;

_Noreturn void give_up(int status, const char *what, const char *why)
{
	dprintf(2, "cofferdam-init: %s%s%s\n", what, why ? ": " : "", why ? why : "");
	/* The namespace dies with its first process; this says so even where we are not the first. */
	if (getpid() == 1)
		kill(-1, SIGKILL);
	_exit(status);
}

int shells_prepare(const struct limits *limits)
{
	sigset_t child, blocked;
	confine_self(limits);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	blocked = child;
	/* Blocked, not ignored: a command would inherit that. */
	sigaddset(&blocked, SIGPIPE);
	if (sigprocmask(SIG_BLOCK, &blocked, NULL))
		give_up(EXIT_REFUSED, "block signals", strerror(errno));
	child_ended = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	if (child_ended < 0)
		give_up(EXIT_REFUSED, "make a signal descriptor", strerror(errno));
	return child_ended;
}

void close_end(int *end)
{
	if (*end >= 0)
		close(*end);
	*end = -1;
}

void shell_start(struct shell *shell, void *stack)
{
	const int namespaces = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWUTS;
	int channel[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel))
		give_up(EXIT_REFUSED, "make a channel", strerror(errno));
	*shell = (struct shell){.stage = SHELL_UNBORN, .channel = channel[0], .ends = {-1, -1, -1, -1}};
	/* Sharing memory spares gVisor a copy of it (2 to 3 ms); see raw.h for what that asks of the new process. */
	shell->pid = clone(confine_and_exec, (uint8_t *)stack + BIRTH_STACK_BYTES, namespaces | CLONE_VM | SIGCHLD,
			   (void *)(intptr_t)channel[1]);
	if (shell->pid < 0)
		give_up(EXIT_REFUSED, "start a process", strerror(errno));
	close(channel[1]);
}

static void set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
		give_up(EXIT_REFUSED, "set a pipe non-blocking", strerror(errno));
}

static void take_ends(struct shell *shell, struct msghdr *message)
{
	const struct cmsghdr *control = CMSG_FIRSTHDR(message);
	if (!control || control->cmsg_type != SCM_RIGHTS || control->cmsg_len != CMSG_LEN(sizeof shell->ends))
		give_up(EXIT_REFUSED, "a shell came without its stdio", NULL);
	memcpy(shell->ends, CMSG_DATA(control), sizeof shell->ends);
	set_nonblocking(shell->ends[BORN_STDIN]);
	set_nonblocking(shell->ends[BORN_STDOUT]);
	set_nonblocking(shell->ends[BORN_STDERR]);
	shell->stage = SHELL_BORN;
}

void shell_hear(struct shell *shell)
{
	while (shell->stage != SHELL_WAITS) {
		char text[128];
		struct iovec body = {text, sizeof text - 1};
		union {
			struct cmsghdr head;
			uint8_t bytes[CMSG_SPACE(sizeof shell->ends)];
		} control;
		struct msghdr message = {
			.msg_iov = &body, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
		ssize_t got = recvmsg(shell->channel, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (got <= 0)
			return;
		text[got] = 0;
		if (text[0] == MESSAGE_BORN && shell->stage == SHELL_UNBORN)
			take_ends(shell, &message);
		else if (text[0] == MESSAGE_WAITS && shell->stage == SHELL_BORN)
			shell->stage = SHELL_WAITS;
		else
			give_up(EXIT_REFUSED, "a shell was refused", text + 1);
	}
}

void shell_send_script(struct shell *shell, const char *script, size_t length, bool with_stdin)
{
	uint8_t head = with_stdin;
	struct iovec parts[2] = {{&head, 1}, {(void *)(uintptr_t)script, length}};
	const struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
	/* A channel holds more than the longest script, and nothing of a tenant runs yet that could be to blame. */
	if (sendmsg(shell->channel, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		give_up(EXIT_REFUSED, "hand over a script", strerror(errno));
}

void shell_kill(const struct shell *shell)
{
	if (shell->pid > 0)
		kill(shell->pid, SIGKILL);
}

void shells_noticed(void)
{
	/* One waits at most: a signal that is pending already is not queued again. */
	struct signalfd_siginfo told;
	if (read(child_ended, &told, sizeof told) < 0 && errno != EAGAIN)
		give_up(EXIT_REFUSED, "read of a shell's end", strerror(errno));
}

pid_t shell_reap(int *status)
{
	int raw;
	pid_t pid = waitpid(-1, &raw, WNOHANG);
	if (pid <= 0)
		return 0;
	*status = WIFSIGNALED(raw) ? 128 + WTERMSIG(raw) : WEXITSTATUS(raw);
	return pid;
}

/*
 * gVisor kills a PID namespace's processes when its first one ends, but lets the first one's parent see its end before theirs
 * (Linux does not). Its /proc shows the rest.
 */
bool shell_leaves_processes(const struct shell *shell)
{
	/* Of struct linux_dirent64. */
	enum { LENGTH_AT = 16, NAME_AT = 19 };
	static uint8_t entries[4096] __attribute__((aligned(8)));
	int proc = shell->ends[BORN_PROC];
	long got;
	if (proc < 0)
		return false;
	if (lseek(proc, 0, SEEK_SET) < 0)
		give_up(EXIT_REFUSED, "look through /proc", strerror(errno));
	while ((got = syscall(SYS_getdents64, proc, entries, sizeof entries)) > 0) {
		for (long at = 0; at + NAME_AT < got;) {
			uint16_t length;
			memcpy(&length, entries + at + LENGTH_AT, sizeof length);
			uint8_t first = entries[at + NAME_AT];
			if (first >= '0' && first <= '9')
				return true;
			at += length;
		}
	}
	if (got < 0)
		give_up(EXIT_REFUSED, "look through /proc", strerror(errno));
	return false;
}

void shell_forget(struct shell *shell)
{
	close_end(&shell->channel);
	for (int i = 0; i < BORN_FDS; i++)
		close_end(&shell->ends[i]);
}
