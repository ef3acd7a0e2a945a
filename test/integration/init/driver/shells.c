#include "shells.h"

#include "dice.h"
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>

struct fake_shell shells[SHELLS];
int shell_count, ended_event;
bool heavy;
int empty_directory, full_directory;
jmp_buf init_ended;

int fake_clone(int (*function)(void *), void *stack, int flags, void *argument)
{
	(void)function, (void)flags;
	memset((uint8_t *)stack - BIRTH_STACK_BYTES, 0xa5, BIRTH_STACK_BYTES);
	CHECK(shell_count < SHELLS, "more shells than calls and spares");
	struct fake_shell *shell = &shells[shell_count++];
	*shell = (struct fake_shell){.alive = true, .channel = dup((int)(intptr_t)argument), .in = -1, .out = {-1, -1}, .thief = -1, .reads_all = roll(2), .closes_early = roll(5) == 0};
	return shell_count;
}

int fake_signalfd(int fd, const sigset_t *mask, int flags)
{
	(void)fd, (void)mask, (void)flags;
	return ended_event = eventfd(0, EFD_NONBLOCK);
}

void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void end_shell(struct fake_shell *shell, int status)
{
	shell->alive = false;
	shell->status = status;
	close_fd(&shell->channel);
	close_fd(&shell->in);
	close_fd(&shell->out[0]);
	close_fd(&shell->out[1]);
	uint64_t one = 1;
	CHECK(write(ended_event, &one, sizeof one) == sizeof one, "eventfd");
}

pid_t fake_waitpid(pid_t pid, int *status, int options)
{
	CHECK(pid == -1 && options == WNOHANG, "waits for something else");
	for (int i = 0; i < shell_count; i++) {
		if (shells[i].alive || shells[i].reaped)
			continue;
		shells[i].reaped = true;
		*status = shells[i].status < 128 ? shells[i].status << 8 : shells[i].status - 128;
		return i + 1;
	}
	return 0;
}

int fake_kill(pid_t pid, int number)
{
	if (pid == -1)
		return 0;
	CHECK(pid >= 1 && pid <= shell_count && number == SIGKILL, "kills %d with %d", pid, number);
	CHECK(!shells[pid - 1].reaped, "kills a shell that it has seen end");
	if (shells[pid - 1].alive)
		end_shell(&shells[pid - 1], 137);
	return 0;
}

_Noreturn void fake_exit(int status)
{
	longjmp(init_ended, status + 1);
}

void confine_self(const struct limits *limits)
{
	(void)limits;
}

int confine_and_exec(void *channel)
{
	(void)channel;
	return 0;
}

static void be_born(struct fake_shell *shell)
{
	int in[2], out[2], err[2];
	CHECK(!pipe2(in, O_NONBLOCK) && !pipe2(out, O_NONBLOCK) && !pipe2(err, O_NONBLOCK), "pipe2: %s", strerror(errno));
	shell->in = in[0];
	shell->out[0] = out[1];
	shell->out[1] = err[1];
	if (roll(heavy ? 2 : 20) == 0)
		shell->thief = dup(out[0]);
	int fds[BORN_FDS] = {in[1], out[0], err[0], roll(4) ? empty_directory : full_directory};
	char type = MESSAGE_BORN;
	struct iovec body = {&type, 1};
	union {
		struct cmsghdr head;
		uint8_t bytes[CMSG_SPACE(sizeof fds)];
	} control = {.head = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fds)}};
	memcpy(CMSG_DATA(&control.head), fds, sizeof fds);
	struct msghdr message = {.msg_iov = &body, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	CHECK(sendmsg(shell->channel, &message, MSG_NOSIGNAL) == 1, "sendmsg: %s", strerror(errno));
	close(in[1]);
	close(out[0]);
	close(err[0]);
	shell->born = true;
}

/* The script of a made-up shell: "call stdout stderr", in decimals, and padding. */
static void take_script(struct fake_shell *shell)
{
	static char script[1 + MAX_COMMAND_BYTES + 1];
	ssize_t got = recv(shell->channel, script, sizeof script - 1, MSG_DONTWAIT);
	if (got < 0)
		return;
	script[got] = 0;
	CHECK(sscanf(script + 1, "%u %zu %zu", &shell->call, &shell->wanted[0], &shell->wanted[1]) == 3, "a script came broken");
	shell->with_stdin = script[0] == 1;
}

static void write_some(struct fake_shell *shell, int stream)
{
	uint8_t bytes[70000];
	size_t count = 1 + roll(sizeof bytes);
	if (count > shell->wanted[stream] - shell->wrote[stream])
		count = shell->wanted[stream] - shell->wrote[stream];
	for (size_t i = 0; i < count; i++)
		bytes[i] = byte_at(shell->call, stream, shell->wrote[stream] + i);
	ssize_t wrote = count ? write(shell->out[stream], bytes, count) : 0;
	if (wrote > 0)
		shell->wrote[stream] += (size_t)wrote;
}

static void read_some(struct fake_shell *shell)
{
	uint8_t bytes[40000];
	ssize_t got = read(shell->in, bytes, 1 + roll(sizeof bytes));
	if (got == 0)
		shell->read_end = true;
	for (ssize_t i = 0; i < got; i++)
		CHECK(bytes[i] == byte_at(shell->call, 2, shell->read++), "call %u reads a wrong byte", shell->call);
}

static void steal_some(struct fake_shell *shell)
{
	uint8_t bytes[5000];
	if (shell->thief >= 0 && read(shell->thief, bytes, 1 + roll(sizeof bytes)) > 0)
		shell->stolen = true;
}

void shell_acts(struct fake_shell *shell)
{
	if (roll(10) == 0)
		steal_some(shell);
	if (!shell->alive)
		return;
	if (!shell->born)
		return be_born(shell);
	if (!shell->waits) {
		char type = MESSAGE_WAITS;
		CHECK(write(shell->channel, &type, 1) == 1, "write");
		shell->waits = true;
		return;
	}
	if (shell->call == 0)
		return take_script(shell);
	switch (roll(8)) {
	case 0:
		if (shell->wrote[0] == shell->wanted[0] && shell->wrote[1] == shell->wanted[1] &&
		    (!shell->reads_all || !shell->with_stdin || shell->read_end || shell->in < 0))
			end_shell(shell, (int)roll(128));
		break;
	case 1:
		if (shell->closes_early)
			close_fd(&shell->in);
		break;
	case 2:
	case 3:
		if (shell->in >= 0)
			read_some(shell);
		break;
	case 4:
		write_some(shell, 1);
		break;
	default:
		write_some(shell, 0);
	}
}

struct fake_shell *shell_of(uint32_t call)
{
	for (int i = 0; i < shell_count; i++)
		if (shells[i].call == call)
			return &shells[i];
	return NULL;
}
