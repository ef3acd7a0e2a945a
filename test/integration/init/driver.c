/*
 * Drives the init's real frames, session and shell code without a sandbox: a made-up api at one end, made-up shells at the
 * other, both moved by dice, under the sanitizers. Three games:
 *   calls    api sends what it may, in pieces of any size, and in half of the rounds one thing it may not at the end. Checked:
 *            every call has its bytes, caps, flags, status and one EXIT; the init ends with 65 for the fault, and never else.
 *   noise    api sends any bytes. Checked: the init ends with 65 or waits for more.
 *   pieces   one stream of frames, whole and cut anywhere, gives the same frames.
 *
 * driver SECONDS SEED: plays from SEED on and prints how many rounds; a failure prints the seed of its round.
 * Built with -DLIBFUZZER it is a libFuzzer target, and the input is the dice.
 */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>

enum { SHELLS = 400, CALLS = 200, OUTPUT_BYTES = 300 * 1024, BAD = EXIT_BAD_FRAME };

/* ---- dice ---- */

static struct {
	uint64_t state;
	const uint8_t *bytes;
	size_t left;
} dice;

static uint32_t roll(uint32_t sides)
{
	if (dice.bytes) {
		uint32_t value = 0;
		for (int i = 0; i < (sides > 256 ? 4 : 1) && dice.left; i++, dice.left--)
			value = value << 8 | *dice.bytes++;
		return value % sides;
	}
	dice.state += 0x9e3779b97f4a7c15;
	uint64_t z = dice.state;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return (uint32_t)((z ^ z >> 31) % sides);
}

static uint64_t round_seed;

_Noreturn static void fail(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	fprintf(stderr, "FAILED with seed %llu: ", (unsigned long long)round_seed);
	vfprintf(stderr, format, arguments);
	fprintf(stderr, "\n");
	abort();
}

#define CHECK(truth, ...)                                                                                            \
	do {                                                                                                         \
		if (!(truth))                                                                                        \
			fail(__VA_ARGS__);                                                                           \
	} while (0)

/* What stream `stream` of call `call` holds at `at`. */
static uint8_t byte_at(uint32_t call, int stream, size_t at)
{
	return (uint8_t)(call * 31 + (uint32_t)stream * 7 + at + (at >> 8));
}

/* ---- the shells ---- */

static struct fake_shell {
	int channel, in, out[2];
	int thief; /* another end to read its stdout from */
	bool alive, reaped, born, waits;
	bool stolen; /* what the thief took is not missed */
	bool reads_all, closes_early;
	uint32_t call; /* as its script says */
	bool with_stdin;
	int status;
	size_t wrote[2], wanted[2], read;
	bool read_end;
} shells[SHELLS];
static int shell_count, ended_event;
static bool heavy; /* a round with much output */
static int empty_directory, full_directory;
static jmp_buf init_ended;

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

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void end_shell(struct fake_shell *shell, int status)
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

static void shell_acts(struct fake_shell *shell)
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

/* ---- api ---- */

static struct call {
	bool ran, ended, with_stdin, input_ended, killed;
	uint32_t cap;
	size_t input, got[2];
} calls[CALLS + 1];
static uint32_t last_call;
static unsigned running;
static bool fault_sent, ready_seen;

/* What is still to be sent. */
static uint8_t *unsent;
static size_t unsent_start, unsent_end, unsent_room;

static uint8_t *queue(size_t length)
{
	if (!unsent || unsent_end + length > unsent_room) {
		unsent_room = 2 * (unsent_end + length) + 1;
		unsent = realloc(unsent, unsent_room);
	}
	unsent_end += length;
	return unsent + unsent_end - length;
}

static uint8_t *queue_frame(uint32_t call, uint32_t type, uint32_t length)
{
	uint8_t *frame = queue(HEADER_BYTES + length);
	put_u32(frame, length);
	put_u32(frame + 4, call);
	put_u32(frame + 8, type);
	return frame + HEADER_BYTES;
}

static void queue_run(uint32_t call, bool with_stdin)
{
	char script[64];
	int text = snprintf(script, sizeof script, "%u %u %u ", call, roll(heavy ? OUTPUT_BYTES : 3000), roll(heavy ? OUTPUT_BYTES : 3000));
	uint32_t length = roll(10) ? (uint32_t)text : (uint32_t)text + roll(MAX_COMMAND_BYTES - (uint32_t)text + 1);
	struct call *record = &calls[call];
	*record = (struct call){.ran = true, .with_stdin = with_stdin, .cap = roll(3) ? OUTPUT_BYTES : roll(3000)};
	uint8_t *payload = queue_frame(call, FRAME_RUN, RUN_HEAD_BYTES + length);
	put_u32(payload, record->cap);
	put_u32(payload + 4, with_stdin);
	memset(payload + RUN_HEAD_BYTES, ' ', length);
	memcpy(payload + RUN_HEAD_BYTES, script, (size_t)text);
	last_call = call;
	running++;
}

static void queue_stdin(uint32_t call, uint32_t length)
{
	uint8_t *payload = queue_frame(call, FRAME_STDIN, length);
	for (uint32_t i = 0; i < length; i++)
		payload[i] = byte_at(call, 2, calls[call].input + i);
	calls[call].input += length;
	calls[call].input_ended = length == 0;
}

static void api_sends_right(void)
{
	uint32_t call = last_call ? 1 + roll(last_call) : 0;
	struct call *record = &calls[call];
	switch (roll(6)) {
	case 0:
	case 1:
		if (running < MAX_CALLS && last_call < CALLS - 2)
			queue_run(last_call + 1 + roll(2), roll(2));
		break;
	case 2:
	case 3:
	case 4:
		if (!call || !record->ran || !record->with_stdin || record->input_ended)
			break;
		uint32_t length = roll(20) ? roll(3000) : roll(MAX_DATA_BYTES + 1);
		if (record->input + length <= MAX_STDIN_BYTES)
			queue_stdin(call, length);
		break;
	default:
		if (call && record->ran && roll(4) == 0) {
			queue_frame(call, FRAME_KILL, 0);
			record->killed = true;
		}
	}
}

/* One thing that is never allowed. */
static void api_sends_wrong(void)
{
	static const uint8_t types[] = {0, 4, 15, FRAME_READY, FRAME_STDOUT, FRAME_STDERR, FRAME_EXIT, 255};
	uint32_t next = last_call + 1;
	/* Of a call that was: a KILL of it is right, whether it runs or not. */
	uint32_t known = last_call ? 1 + roll(last_call) : next;
	uint8_t *payload;
	fault_sent = true;
	switch (roll(10)) {
	case 0:
		queue_frame(known, types[roll(sizeof types)], 0);
		return;
	case 1:
		memset(queue_frame(0, FRAME_RUN, RUN_HEAD_BYTES), 0, RUN_HEAD_BYTES);
		return;
	case 2: /* The header alone must do. */
		put_u32(queue_frame(next, FRAME_RUN, 0) - HEADER_BYTES,
			roll(2) ? roll(RUN_HEAD_BYTES) : MAX_COMMAND_BYTES + RUN_HEAD_BYTES + 1 + (roll(2) ? 0 : roll(UINT32_MAX / 2)));
		return;
	case 3:
		payload = queue_frame(next, FRAME_RUN, RUN_HEAD_BYTES);
		memset(payload, 0, RUN_HEAD_BYTES);
		payload[4 + roll(4)] = (uint8_t)(2 + roll(254));
		return;
	case 4: /* A NUL in the command. */
		payload = queue_frame(next, FRAME_RUN, RUN_HEAD_BYTES + 9);
		memset(payload, 0, RUN_HEAD_BYTES);
		memset(payload + RUN_HEAD_BYTES, ' ', 9);
		payload[RUN_HEAD_BYTES + roll(9)] = 0;
		return;
	case 5:
		put_u32(queue_frame(known, FRAME_STDIN, 0) - HEADER_BYTES, MAX_DATA_BYTES + 1 + (roll(2) ? 0 : roll(UINT32_MAX / 2)));
		return;
	case 6:
		put_u32(queue_frame(known, FRAME_KILL, 0) - HEADER_BYTES, 1 + roll(20));
		return;
	case 7:
		queue_frame(next, roll(2) ? FRAME_KILL : FRAME_STDIN, 0);
		return;
	case 8:
		payload = queue_frame(known, FRAME_KILL, 0);
		payload[-1 - (int)roll(3)] = (uint8_t)(1 + roll(255));
		return;
	default: /* A number that is used up. */
		memset(queue_frame(last_call ? 1 + roll(last_call) : 0, FRAME_RUN, RUN_HEAD_BYTES), 0, RUN_HEAD_BYTES);
	}
}

/* All input ends, or it all ends in a fault. */
static void api_ends(bool wrong)
{
	for (uint32_t call = 1; call <= last_call; call++)
		if (calls[call].ran && calls[call].with_stdin && !calls[call].input_ended)
			queue_stdin(call, 0);
	if (wrong)
		api_sends_wrong();
}

static void send_some(int fd)
{
	size_t left = unsent_end - unsent_start;
	if (left == 0)
		return;
	size_t count = roll(2) ? left : 1 + roll(roll(2) ? 20 : 70000);
	if (count > left)
		count = left;
	ssize_t sent = send(fd, unsent + unsent_start, count, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent > 0)
		unsent_start += (size_t)sent;
	if (unsent_start == unsent_end)
		unsent_start = unsent_end = 0;
}

/* ---- what comes from the init ---- */

static uint8_t received[HEADER_BYTES + MAX_DATA_BYTES + 100000];
static size_t received_count;

static uint32_t u32_at(const uint8_t *bytes)
{
	return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static struct fake_shell *shell_of(uint32_t call)
{
	for (int i = 0; i < shell_count; i++)
		if (shells[i].call == call)
			return &shells[i];
	return NULL;
}

static void check_exit(uint32_t number, const uint8_t *payload)
{
	struct call *call = &calls[number];
	const struct fake_shell *shell = shell_of(number);
	uint32_t flags = u32_at(payload + 4);
	if (!shell) {
		CHECK(u32_at(payload) == 137 && flags == EXIT_KILLED && call->killed, "call %u ends without a shell", number);
	} else {
		CHECK(!shell->alive && u32_at(payload) == (uint32_t)shell->status, "call %u has a wrong status", number);
		CHECK(!(flags & EXIT_KILLED) || call->killed, "call %u was not killed", number);
		for (int stream = 0; stream < 2; stream++) {
			bool cut = shell->wrote[stream] > call->cap;
			if (stream == 0 && shell->stolen)
				continue;
			CHECK(call->got[stream] == (cut ? call->cap : shell->wrote[stream]), "call %u lacks output", number);
			CHECK(cut == !!(flags & (1u << stream)), "call %u has a wrong flag", number);
		}
		CHECK(shell->read <= call->input, "call %u read more than was sent", number);
		CHECK(!shell->read_end || !call->with_stdin || call->input_ended, "call %u saw its input's end too early", number);
		CHECK(!shell->read_end || !call->with_stdin || shell->read == call->input, "call %u lacks input", number);
		CHECK(shell->with_stdin == call->with_stdin, "call %u has the wrong kind of stdin", number);
	}
	call->ended = true;
	running--;
}

static void check_frame(uint32_t number, uint8_t type, const uint8_t *payload, uint32_t length)
{
	if (type == FRAME_READY) {
		CHECK(!ready_seen && number == 0 && length == 4 && u32_at(payload) == PROTOCOL_VERSION, "a wrong READY");
		ready_seen = true;
		return;
	}
	CHECK(number >= 1 && number <= last_call && calls[number].ran && !calls[number].ended, "a frame for call %u", number);
	if (type == FRAME_EXIT) {
		CHECK(length == EXIT_BYTES, "a wrong EXIT");
		check_exit(number, payload);
		return;
	}
	CHECK((type == FRAME_STDOUT || type == FRAME_STDERR) && length > 0, "a frame of type %u", type);
	size_t *got = &calls[number].got[type - FRAME_STDOUT];
	for (uint32_t i = 0; i < length; i++)
		CHECK(payload[i] == byte_at(number, type - FRAME_STDOUT, (*got)++) || (type == FRAME_STDOUT && shell_of(number)->stolen),
		      "call %u has a wrong byte", number);
}

static void receive_some(int fd)
{
	size_t room = sizeof received - received_count;
	size_t want = roll(4) ? room : 1 + roll((uint32_t)room);
	ssize_t got = recv(fd, received + received_count, want, MSG_DONTWAIT);
	if (got <= 0)
		return;
	received_count += (size_t)got;
	size_t at = 0;
	while (received_count - at >= HEADER_BYTES) {
		const uint8_t *frame = received + at;
		uint32_t length = u32_at(frame);
		CHECK(length <= MAX_DATA_BYTES && !frame[9] && !frame[10] && !frame[11], "a broken header");
		if (received_count - at - HEADER_BYTES < length)
			break;
		check_frame(u32_at(frame + 4), frame[8], frame + HEADER_BYTES, length);
		at += HEADER_BYTES + length;
	}
	memmove(received, received + at, received_count - at);
	received_count -= at;
}

/* ---- the games ---- */

static struct session session;
static int api_end, init_end;

static int descriptors_before;

static int open_descriptors(void)
{
	int count = 0;
	for (int fd = 0; fd < 1024; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static void set_up(void)
{
	descriptors_before = open_descriptors();
	int pair[2];
	static const struct limits limits = {1, 1, 1};
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), "socketpair");
	api_end = pair[0];
	init_end = pair[1];
	memset(&session, 0, sizeof session);
	memset(calls, 0, sizeof calls);
	shell_count = 0;
	last_call = running = 0;
	unsent_start = unsent_end = received_count = 0;
	fault_sent = ready_seen = false;
	session_init(&session, init_end, init_end, shells_prepare(&limits), 1 + roll(MAX_SPARES));
}

static void tear_down(void)
{
	for (int i = 0; i < MAX_SHELLS; i++)
		if (session.places[i].state != PLACE_FREE) {
			shell_forget(&session.places[i].shell);
			if (session.places[i].input)
				munmap(session.places[i].input, MAX_STDIN_BYTES);
		}
	for (int i = 0; i < shell_count; i++)
	{
		if (shells[i].alive)
			end_shell(&shells[i], 0);
		close_fd(&shells[i].thief);
	}
	close(api_end);
	close(init_end);
	close(ended_event);
	CHECK(open_descriptors() == descriptors_before, "descriptors leak");
}

/* Whether a shell's processes may still be dying: the file in full_directory stands for them. */
static bool some_are_dying(void)
{
	return faccessat(full_directory, "123", F_OK, 0) == 0;
}

static bool lies_in_full_directory(int fd)
{
	struct stat one, other;
	return !fstat(fd, &one) && !fstat(full_directory, &other) && one.st_ino == other.st_ino;
}

/* One step of the init; -1 while it lives. It must never wait here: there is always a spare to start or an event. */
static int step(void)
{
	static uint64_t one = 1;
	/* So that ppoll returns at once, whatever it waits for. */
	CHECK(write(ended_event, &one, sizeof one) == sizeof one, "eventfd");
	static bool waiting[MAX_SHELLS];
	for (int i = 0; i < MAX_SHELLS; i++) {
		const struct place *place = &session.places[i];
		waiting[i] = (place->state == PLACE_RUNNING || place->state == PLACE_ENDING) && place->shell.stage != SHELL_UNBORN &&
			     lies_in_full_directory(place->shell.ends[BORN_PROC]) && some_are_dying();
	}
	static int status;
	int ended = setjmp(init_ended);
	status = ended ? ended - 1 : session_step(&session);
	for (int i = 0; i < MAX_SHELLS && status < 0; i++)
		CHECK(!waiting[i] || session.places[i].state == PLACE_RUNNING || session.places[i].state == PLACE_ENDING,
		      "a call goes on to its end while processes of it live");
	return status;
}

static void play_calls(void)
{
	bool wrong = roll(2);
	uint32_t sends = 1 + roll(roll(4) ? 60 : 600);
	uint32_t deaf = 0;
	heavy = roll(4) == 0;
	int status = -1;
	set_up();
	/* Then all that runs must come to its end. */
	for (int turn = 0; status < 0 && turn < 200000; turn++) {
		if (sends > 0 && roll(2) && unsent_end - unsent_start < 500000) {
			api_sends_right();
			if (--sends == 0)
				api_ends(wrong);
		}
		send_some(api_end);
		for (int i = 0; i < 3 && shell_count; i++)
			shell_acts(&shells[roll((uint32_t)shell_count)]);
		if (deaf > 0)
			deaf--;
		else if (roll(200) == 0)
			deaf = roll(500);
		else if (roll(3))
			receive_some(api_end);
		/* The directory stands for processes that are dying: they are gone in the end. */
		if (roll(50) == 0)
			unlinkat(full_directory, "123", 0);
		else if (roll(50) == 0)
			close(openat(full_directory, "123", O_CREAT | O_WRONLY, 0600));
		status = step();
		if (sends == 0 && unsent_end == unsent_start && running == 0 && !fault_sent && ready_seen)
			break;
		if (dice.bytes && !dice.left)
			break;
		if (sends == 0)
			for (int i = 0; i < shell_count; i++)
				if (shells[i].call && roll(4) == 0)
					shell_acts(&shells[i]);
	}
	if (dice.bytes && !dice.left)
		CHECK(status < 0 || (status == BAD && fault_sent), "the init ends with %d", status);
	else if (fault_sent)
		CHECK(status == BAD, "a fault is answered with %d", status);
	else
		CHECK(status < 0 && running == 0, "the init ends with %d, %u calls running", status, running);
	tear_down();
}

static void play_noise(void)
{
	int status = -1;
	set_up();
	for (int turn = 0; status < 0 && turn < 40; turn++) {
		uint32_t length = roll(300);
		uint8_t *bytes = queue(length);
		for (uint32_t i = 0; i < length; i++)
			bytes[i] = (uint8_t)(roll(3) ? roll(4) : roll(256));
		send_some(api_end);
		status = step();
	}
	CHECK(status < 0 || status == BAD, "noise is answered with %d", status);
	tear_down();
}

static uint64_t digest_frames(size_t piece)
{
	static struct frame_reader reader;
	uint64_t digest = 14695981039346656037u;
	struct frame frame;
	enum frame_result result = FRAME_MORE;
	memset(&reader, 0, sizeof reader);
	for (size_t at = 0; at < unsent_end && result != FRAME_BAD;) {
		size_t room;
		uint8_t *into = reader_room(&reader, &room);
		CHECK(room > 0, "a full reader asks for more");
		size_t count = piece ? 1 + roll((uint32_t)piece) : room;
		count = count < room ? count : room;
		count = count < unsent_end - at ? count : unsent_end - at;
		memcpy(into, unsent + at, count);
		at += count;
		reader_filled(&reader, count);
		while ((result = frame_next(&reader, &frame)) == FRAME_WHOLE) {
			digest = (digest ^ frame.call ^ (uint64_t)frame.type << 32) * 1099511628211u;
			for (uint32_t i = 0; i < frame.length; i++)
				digest = (digest ^ frame.payload[i]) * 1099511628211u;
		}
	}
	return result == FRAME_BAD ? digest + 1 : digest;
}

static void play_pieces(void)
{
	unsent_start = unsent_end = 0;
	last_call = running = 0;
	memset(calls, 0, sizeof calls);
	for (uint32_t i = roll(30); i > 0; i--)
		api_sends_right();
	if (roll(2))
		api_sends_wrong();
	uint64_t whole = digest_frames(0);
	for (int i = 0; i < 3; i++)
		CHECK(digest_frames(1 + roll(roll(2) ? 20 : 50000)) == whole, "pieces make other frames");
}

static void play(void)
{
	switch (roll(4)) {
	case 0:
		play_noise();
		break;
	case 1:
		play_pieces();
		break;
	default:
		play_calls();
	}
}

static void make_directories(void)
{
	/* In the working directory, which is the caller's to remove. */
	mkdir("empty", 0700);
	mkdir("full", 0700);
	empty_directory = open("empty", O_RDONLY | O_DIRECTORY);
	full_directory = open("full", O_RDONLY | O_DIRECTORY);
	CHECK(empty_directory >= 0 && full_directory >= 0, "directories: %s", strerror(errno));
}

#ifdef LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	if (!empty_directory)
		make_directories();
	dice.bytes = bytes;
	dice.left = length;
	play();
	return 0;
}
#else
int main(int count, char **arguments)
{
	if (count != 3)
		return 2;
	time_t end = time(NULL) + atoi(arguments[1]);
	round_seed = strtoull(arguments[2], NULL, 10);
	make_directories();
	unsigned long rounds = 0;
	do {
		dice.state = round_seed;
		play();
		round_seed++;
		rounds++;
	} while (time(NULL) < end);
	printf("%lu rounds\n", rounds);
	return 0;
}
#endif
