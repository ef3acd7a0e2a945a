/*
 * The first process of a run's sandbox: uid 10000 without a capability, like all in there. It waits for the launch frames
 * on stdin (src/protocol/launch.ts), starts the command, feeds its stdin, passes signals on, and ends as the command does:
 * the kernel then kills whatever else runs. The command's stdout is this process's own; its stderr comes as descriptor 3,
 * since 2 is for what runsc and this process have to say to sandboxd.
 */
#define _GNU_SOURCE
#include "filter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	EXIT_BAD_FRAME = 65,
	EXIT_REFUSED = 71,
	EXIT_NOT_STARTED = 126,
	EXIT_NOT_FOUND = 127,

	FRAME_RESET = 'R',
	FRAME_LAUNCH = 'L',
	FRAME_GO = 'G',
	FRAME_DATA = 'D',
	FRAME_EOF = 'E',
	FRAME_SIGNAL = 'S',

	HEADER_BYTES = 3,
	MAX_FRAME_BYTES = 4096,
	MAX_LAUNCH_BYTES = 1024 * 1024,

	/* As src/sandboxd/run/spec.ts passes it. */
	RUN_STDERR = 3,

	NR_memfd_secret = 447,
	NR_process_mrelease = 448,
	NR_futex_waitv = 449,
	NEW_TIME = 0x80,

	OURSELVES = 1,
};

/*
 * The profile of the sandbox (src/sandboxd/run/seccomp.ts) allows what is named there, and says EPERM to all else. This
 * filter says ENOSYS where programs know how to do without, closes namespaces once more, and keeps the command, whose uid
 * is this process's, from ending or stopping it: gVisor would let it, and the run would end as if by a fault of ours, or
 * not at all.
 */
static const struct rule rules[] = {
	{SYS_clone, EPERM, WHEN_ANY_OF, NEW_NAMESPACES},
	{SYS_kill, EPERM, WHEN_EQUAL, OURSELVES},
	/* Else a descriptor that is made this process's sends it SIGKILL. */
	{SYS_fcntl, EPERM, WHEN_SECOND_IS, F_SETSIG},
	{SYS_rt_sigqueueinfo, EPERM, WHEN_EQUAL, OURSELVES},
	{SYS_tkill, EPERM, WHEN_EQUAL, OURSELVES},
	{SYS_tgkill, EPERM, WHEN_EQUAL, OURSELVES},
	{SYS_unshare, EPERM, WHEN_ANY_OF, NEW_NAMESPACES | NEW_TIME},
	{SYS_rt_tgsigqueueinfo, EPERM, WHEN_EQUAL, OURSELVES},
	{SYS_prlimit64, EPERM, WHEN_EQUAL, OURSELVES},
	{SYS_setns, EPERM, ALWAYS, 0},
	{SYS_io_uring_setup, ENOSYS, ALWAYS, 0},
	{SYS_pidfd_open, EPERM, WHEN_EQUAL, OURSELVES},
	{SYS_clone3, ENOSYS, ALWAYS, 0},
	{SYS_landlock_create_ruleset, ENOSYS, ALWAYS, 0},
	{SYS_landlock_add_rule, ENOSYS, ALWAYS, 0},
	{SYS_landlock_restrict_self, ENOSYS, ALWAYS, 0},
	{NR_memfd_secret, ENOSYS, ALWAYS, 0},
	{NR_process_mrelease, ENOSYS, ALWAYS, 0},
	{NR_futex_waitv, ENOSYS, ALWAYS, 0},
};

/* Of a data frame, before its bytes; and what stands there for "after what came so far". */
enum { OFFSET_BYTES = 8 };
#define APPEND UINT64_MAX

/* Frames as they come: room for a whole one behind the rest of the one before. */
static struct {
	size_t start, end;
	uint8_t bytes[2 * MAX_FRAME_BYTES];
} input;

static struct {
	size_t length;
	char text[MAX_LAUNCH_BYTES];
} block;

/* One command in a life. `feed` is our end of its stdin, -1 when there is none (any more). */
static struct {
	pid_t pid;
	int feed;
	/* What of the data frame at hand it has not taken yet. Meanwhile no other frame is looked at. */
	const uint8_t *data;
	size_t length;
	/* Of its stdin, taken out of frames by now. */
	uint64_t received;
} command = {.feed = -1};

_Noreturn static void give_up(int status, const char *what, const char *why)
{
	dprintf(STDERR_FILENO, "cofferdam: %s%s%s\n", what, why ? ": " : "", why ? why : "");
	_exit(status);
}

static void must(bool done, const char *step)
{
	if (!done)
		give_up(EXIT_REFUSED, step, strerror(errno));
}

/* ---- the launch block ---- */

/* The next string of the block. */
static char *next_string(size_t *at)
{
	if (*at >= block.length)
		give_up(EXIT_BAD_FRAME, "the launch is not whole", NULL);
	char *text = block.text + *at;
	const char *end = memchr(text, 0, block.length - *at);
	if (!end)
		give_up(EXIT_BAD_FRAME, "the launch is not whole", NULL);
	*at += (size_t)(end - text) + 1;
	return text;
}

static unsigned long long next_number(size_t *at)
{
	const char *text = next_string(at);
	unsigned long long value = 0;
	for (const char *digit = text; *digit; digit++) {
		if (*digit < '0' || *digit > '9' || value > (~0ULL >> 1) / 10 - 1)
			give_up(EXIT_BAD_FRAME, "the launch has no number where one is due", NULL);
		value = value * 10 + (unsigned)(*digit - '0');
	}
	if (!*text)
		give_up(EXIT_BAD_FRAME, "the launch has no number where one is due", NULL);
	return value;
}

/* A number, and that many strings: as execve wants them. */
static char **next_strings(size_t *at)
{
	unsigned long long count = next_number(at);
	if (count > block.length)
		give_up(EXIT_BAD_FRAME, "the launch is not whole", NULL);
	char **strings = calloc((size_t)count + 1, sizeof *strings);
	must(strings != NULL, "no memory for the launch");
	for (size_t i = 0; i < count; i++)
		strings[i] = next_string(at);
	return strings;
}

/* ---- the command ---- */

/* Never above what this process itself has. */
static void lower(__rlimit_resource_t resource, unsigned long long value, const char *step)
{
	struct rlimit both;
	must(getrlimit(resource, &both) == 0, step);
	if (value < both.rlim_max)
		both.rlim_max = (rlim_t)value;
	both.rlim_cur = both.rlim_max;
	must(setrlimit(resource, &both) == 0, step);
}

/* In the memory of its parent, which stands still until this is another program: nothing of that is changed. */
_Noreturn static void become(char **arguments, const char *directory, const struct rlimit limits[2], int in)
{
	sigset_t none;
	sigemptyset(&none);
	must(setsid() >= 0, "start a session");
	must(dup2(RUN_STDERR, STDERR_FILENO) == STDERR_FILENO, "place stderr");
	must(dup2(in, STDIN_FILENO) == STDIN_FILENO, "place stdin");
	must(close_range(STDERR_FILENO + 1, ~0U, 0) == 0, "close descriptors");
	lower(RLIMIT_NPROC, limits[0].rlim_max, "limit processes");
	lower(RLIMIT_FSIZE, limits[1].rlim_max, "limit file size");
	must(signal(SIGPIPE, SIG_DFL) != SIG_ERR && signal(SIGIO, SIG_DFL) != SIG_ERR, "reset signals");
	must(sigprocmask(SIG_SETMASK, &none, NULL) == 0, "unblock signals");
	if (chdir(directory))
		give_up(EXIT_NOT_STARTED, directory, strerror(errno));
	execvp(arguments[0], arguments);
	give_up(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_STARTED, arguments[0], strerror(errno));
}

static void start(void)
{
	size_t at = 0;
	if (strcmp(next_string(&at), "1") != 0)
		give_up(EXIT_BAD_FRAME, "the launch is of another version", NULL);
	const char *directory = next_string(&at);
	bool fed = next_number(&at) == 1;
	struct rlimit limits[2];
	for (int i = 0; i < 2; i++)
		limits[i].rlim_max = (rlim_t)next_number(&at);
	char **arguments = next_strings(&at);
	char **variables = next_strings(&at);
	if (!arguments[0] || at != block.length)
		give_up(EXIT_BAD_FRAME, "the launch is not as it should be", NULL);

	int ends[2];
	if (fed)
		must(pipe2(ends, O_CLOEXEC) == 0, "make stdin");
	else
		must((ends[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0, "open /dev/null");
	/* execvp looks the program up in it. */
	environ = variables;
	/* Not fork: a copy of this process' memory is some 3 ms of the time that a run takes to begin. */
	pid_t child = vfork();
	must(child >= 0, "start a process");
	if (child == 0)
		become(arguments, directory, limits, ends[0]);
	command.pid = child;
	close(ends[0]);
	if (fed) {
		command.feed = ends[1];
		must(fcntl(command.feed, F_SETFL, O_NONBLOCK) == 0, "set stdin non-blocking");
	}
	/* It holds the run's token. */
	explicit_bzero(block.text, block.length);
	block.length = 0;
	free(arguments);
}

static void end_feed(void)
{
	if (command.feed >= 0)
		close(command.feed);
	command.feed = -1;
	command.length = 0;
}

static void feed(void)
{
	ssize_t count = write(command.feed, command.data, command.length);
	if (count < 0) {
		/* A command that closed its stdin wants no more of it. */
		if (errno != EAGAIN && errno != EINTR)
			end_feed();
		return;
	}
	command.data += count;
	command.length -= (size_t)count;
}

/* ---- frames ---- */

/* What an api that came back sends again is passed over: the frame says where in stdin its bytes belong. */
static void take_data(const uint8_t *payload, size_t length)
{
	if (length < OFFSET_BYTES)
		give_up(EXIT_BAD_FRAME, "a data frame has no offset", NULL);
	uint64_t at = 0;
	for (int i = OFFSET_BYTES - 1; i >= 0; i--)
		at = at << 8 | payload[i];
	payload += OFFSET_BYTES;
	length -= OFFSET_BYTES;
	if (at != APPEND) {
		if (at > command.received)
			give_up(EXIT_BAD_FRAME, "a part of stdin is missing", NULL);
		uint64_t known = command.received - at;
		if (known >= length)
			return;
		payload += known;
		length -= known;
	}
	command.received += length;
	if (command.feed < 0)
		return;
	command.data = payload;
	command.length = length;
}

static void handle(uint8_t type, const uint8_t *payload, size_t length)
{
	switch (type) {
	case FRAME_RESET:
		block.length = 0;
		return;
	case FRAME_LAUNCH:
		/* After the start it is an api's that came back, which does not know. */
		if (command.pid)
			return;
		if (length > sizeof block.text - block.length)
			give_up(EXIT_BAD_FRAME, "the launch is too long", NULL);
		memcpy(block.text + block.length, payload, length);
		block.length += length;
		return;
	case FRAME_GO:
		if (!command.pid)
			start();
		return;
	case FRAME_DATA:
		take_data(payload, length);
		return;
	case FRAME_EOF:
		end_feed();
		return;
	case FRAME_SIGNAL:
		if (length != 1)
			give_up(EXIT_BAD_FRAME, "a signal frame is not one byte long", NULL);
		/* Of the group, which is the command's own; there is none while it is being born. */
		if (command.pid && kill(-command.pid, payload[0]))
			kill(command.pid, payload[0]);
		return;
	default:
		give_up(EXIT_BAD_FRAME, "a frame of no known kind", NULL);
	}
}

/* All whole frames, as long as the command takes its data. */
static void handle_all(void)
{
	while (!command.length && input.end - input.start >= HEADER_BYTES) {
		const uint8_t *frame = input.bytes + input.start;
		size_t length = (size_t)frame[1] | (size_t)frame[2] << 8;
		if (length > MAX_FRAME_BYTES - HEADER_BYTES)
			give_up(EXIT_BAD_FRAME, "a frame is too long", NULL);
		if (input.end - input.start < HEADER_BYTES + length)
			return;
		input.start += HEADER_BYTES + length;
		handle(frame[0], frame + HEADER_BYTES, length);
	}
}

static void receive(void)
{
	memmove(input.bytes, input.bytes + input.start, input.end - input.start);
	input.end -= input.start;
	input.start = 0;
	ssize_t count = read(STDIN_FILENO, input.bytes + input.end, sizeof input.bytes - input.end);
	if (count > 0)
		input.end += (size_t)count;
	else if (count == 0)
		give_up(EXIT_BAD_FRAME, "stdin has ended", NULL);
	else
		must(errno == EAGAIN || errno == EINTR, "read a frame");
}

/* ---- ends ---- */

static void on_child(int number)
{
	(void)number;
}

/*
 * As PID 1, of every orphan too. The command's is also said to sandboxd: runsc reports a sandbox that was killed just like
 * one whose command was.
 */
static void reap(void)
{
	int status;
	for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
		if (pid == command.pid) {
			int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
			dprintf(STDERR_FILENO, "exit %d\n", code);
			_exit(code);
		}
}

int main(void)
{
	sigset_t child, none;
	sigemptyset(&none);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	/* Only while it waits in ppoll, so that no end of a child is missed. */
	must(sigprocmask(SIG_BLOCK, &child, NULL) == 0, "block SIGCHLD");
	must(sigaction(SIGCHLD, &(struct sigaction){.sa_handler = on_child}, NULL) == 0, "hear of children");
	must(signal(SIGPIPE, SIG_IGN) != SIG_ERR && signal(SIGIO, SIG_IGN) != SIG_ERR, "ignore signals");
	/* The command has the same uid: without this, it could read frames from /proc/1/fd/0 and change this process. */
	must(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0, "set not dumpable");
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "set no_new_privs");
	const struct sock_fprog *filter = filter_program(rules, sizeof rules / sizeof *rules);
	must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, filter) == 0, "load the filter");

	for (;;) {
		struct pollfd waits[2] = {
			{.fd = command.length ? -1 : STDIN_FILENO, .events = POLLIN},
			{.fd = command.length ? command.feed : -1, .events = POLLOUT},
		};
		int ready = ppoll(waits, 2, NULL, &none);
		must(ready >= 0 || errno == EINTR, "wait");
		reap();
		if (ready <= 0)
			continue;
		if (waits[1].revents)
			feed();
		else if (waits[0].revents)
			receive();
		handle_all();
	}
}
