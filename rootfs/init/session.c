#define _GNU_SOURCE
#include "session.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
	KILLED_STATUS = 128 + SIGKILL,
	/* A new spare takes some 9 ms of processor time: it waits until the answer is out, or, next to a long command, for a lull. */
	SPARE_AFTER_EXIT_US = 3 * 1000,
	SPARE_BESIDE_CALLS_US = 100 * 1000,
	/* Between two looks at whether what an ended shell started is dead. */
	ENDING_POLL_US = 200,
};

static int64_t now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

void session_init(struct session *session, int in, int out, int child_ended, unsigned spares)
{
	session->in = in;
	session->out = out;
	session->child_ended = child_ended;
	session->spares_wanted = spares;
	assert(spares <= MAX_SPARES);
}

static bool has_call(const struct place *place)
{
	return place->state >= PLACE_RUNNING && place->state <= PLACE_DRAINING;
}

static unsigned count_calls(const struct session *session)
{
	unsigned count = 0;
	for (unsigned i = 0; i < MAX_SHELLS; i++)
		count += has_call(&session->places[i]);
	return count;
}

/* ---- spares ---- */

static struct place *start_spare(struct session *session)
{
	unsigned i = 0;
	while (session->places[i].state != PLACE_FREE) {
		i++;
		assert(i < MAX_SHELLS);
	}
	struct place *place = &session->places[i];
	*place = (struct place){.state = PLACE_SPARE};
	shell_start(&place->shell, session->stacks[i]);
	return place;
}

/* The spare that is the furthest on its way, or NULL. */
static struct place *find_spare(struct session *session)
{
	struct place *best = NULL;
	for (unsigned i = 0; i < MAX_SHELLS; i++) {
		struct place *place = &session->places[i];
		if (place->state == PLACE_SPARE && (!best || place->shell.stage > best->shell.stage))
			best = place;
	}
	return best;
}

/* Microseconds until a spare should be started; -1 when none is wanted. One starts at a time. */
static int64_t spare_due_in(const struct session *session)
{
	unsigned spares = 0;
	for (unsigned i = 0; i < MAX_SHELLS; i++) {
		const struct place *place = &session->places[i];
		if (place->state != PLACE_SPARE)
			continue;
		if (place->shell.stage != SHELL_WAITS)
			return -1;
		spares++;
	}
	if (spares >= session->spares_wanted)
		return -1;
	int64_t left = session->next_spare_at - now_us();
	return left > 0 ? left : 0;
}

static void hear(struct session *session, struct place *place)
{
	shell_hear(&place->shell);
	if (session->ready_told || place->shell.stage != SHELL_WAITS)
		return;
	uint8_t *payload = writer_room(&session->writer, 4);
	assert(payload); /* It comes first, and is small. */
	put_u32(payload, PROTOCOL_VERSION);
	writer_commit(&session->writer, 0, FRAME_READY, 4);
	session->ready_told = true;
}

/* ---- frames in ---- */

/* The call's place, or NULL for a call that is over. *known is false for one that never was. */
static struct place *find_call(struct session *session, uint32_t call, bool *known)
{
	*known = call <= session->last_call;
	for (unsigned i = 0; i < MAX_SHELLS; i++)
		if (has_call(&session->places[i]) && session->places[i].call == call)
			return &session->places[i];
	return NULL;
}

static bool on_run(struct session *session, const struct frame *frame)
{
	struct run run;
	if (frame->call <= session->last_call || !parse_run(frame, &run) || count_calls(session) == MAX_CALLS)
		return false;
	session->last_call = frame->call;

	struct place *place = find_spare(session);
	if (!place)
		place = start_spare(session);
	place->state = PLACE_RUNNING;
	place->call = frame->call;
	place->streams[0].cap_left = place->streams[1].cap_left = run.output_cap;
	place->input_wanted = run.with_stdin;
	shell_send_script(&place->shell, run.command, run.length, run.with_stdin);
	session->next_spare_at = now_us() + SPARE_BESIDE_CALLS_US;
	return true;
}

static bool on_stdin(struct session *session, const struct frame *frame)
{
	bool known;
	struct place *place = find_call(session, frame->call, &known);
	if (!place)
		return known;
	if (!place->input_wanted || place->input_ended || frame->length > MAX_STDIN_BYTES - place->input_length)
		return false;
	if (frame->length == 0) {
		place->input_ended = true;
		return true;
	}
	if (!place->input) {
		place->input = mmap(NULL, MAX_STDIN_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (place->input == MAP_FAILED)
			give_up(EXIT_REFUSED, "no memory for stdin", strerror(errno));
	}
	memcpy(place->input + place->input_length, frame->payload, frame->length);
	place->input_length += frame->length;
	return true;
}

static bool on_kill(struct session *session, const struct frame *frame)
{
	bool known;
	struct place *place = find_call(session, frame->call, &known);
	if (place && place->state == PLACE_RUNNING) {
		place->killed = true;
		shell_kill(&place->shell);
	}
	return known;
}

static bool handle_frame(struct session *session, const struct frame *frame)
{
	switch (frame->type) {
	case FRAME_RUN:
		return on_run(session, frame);
	case FRAME_STDIN:
		return on_stdin(session, frame);
	default:
		return on_kill(session, frame);
	}
}

/* Returns as session_step. */
static int read_frames(struct session *session)
{
	struct frame frame;
	enum frame_result result;
	size_t room;
	uint8_t *into = reader_room(&session->reader, &room);
	ssize_t got = read(session->in, into, room);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return -1;
	if (got <= 0)
		return EXIT_CLOSED;
	reader_filled(&session->reader, (size_t)got);
	while ((result = frame_next(&session->reader, &frame)) == FRAME_WHOLE)
		if (!handle_frame(session, &frame))
			return EXIT_BAD_FRAME;
	return result == FRAME_BAD ? EXIT_BAD_FRAME : -1;
}

/* ---- a command's stdio ---- */

static void feed_input(struct place *place)
{
	int *end = &place->shell.ends[BORN_STDIN];
	if (*end < 0)
		return;
	while (place->input_sent < place->input_length) {
		ssize_t sent = write(*end, place->input + place->input_sent, place->input_length - place->input_sent);
		if (sent < 0 && errno == EAGAIN)
			return;
		if (sent < 0) {
			/* A command need not read its input. */
			close_end(end);
			return;
		}
		place->input_sent += (uint32_t)sent;
	}
	if (place->input_ended)
		close_end(end);
}

/* Passes on a piece of output. False when there is nothing to do now: no output, or no room. */
static bool pump(struct session *session, struct place *place, int which)
{
	struct stream *stream = &place->streams[which];
	int *end = &place->shell.ends[which == 0 ? BORN_STDOUT : BORN_STDERR];
	uint32_t want = MAX_DATA_BYTES;
	if (*end < 0)
		return false;
	if (place->state == PLACE_DRAINING && stream->drain_left < want)
		want = stream->drain_left;
	if (want == 0)
		return false;
	uint8_t *payload = writer_room(&session->writer, want);
	if (!payload)
		return false;
	ssize_t got = read(*end, payload, want);
	if (got <= 0) {
		/* A command can open its stdout for reading too, and be read by another one: what was counted may be gone. */
		stream->drain_left = 0;
		if (got == 0 || errno != EAGAIN)
			close_end(end);
		return false;
	}
	if (place->state == PLACE_DRAINING)
		stream->drain_left -= (uint32_t)got;
	uint32_t kept = (uint32_t)got;
	if (kept > stream->cap_left) {
		/* The rest is read and forgotten, so that the command goes on. */
		kept = stream->cap_left;
		stream->truncated = true;
	}
	stream->cap_left -= kept;
	if (kept > 0)
		writer_commit(&session->writer, place->call, which == 0 ? FRAME_STDOUT : FRAME_STDERR, kept);
	return true;
}

/* ---- the end of a call ---- */

static void on_shell_end(struct session *session, pid_t pid, int status)
{
	for (unsigned i = 0; i < MAX_SHELLS; i++) {
		struct place *place = &session->places[i];
		if (place->state == PLACE_FREE || place->shell.pid != pid)
			continue;
		shell_hear(&place->shell);
		/* No tenant can reach a shell before it has its script: the image or the kernel fails, for the next one too. */
		if (!place->killed && !(has_call(place) && place->shell.stage == SHELL_WAITS))
			give_up(EXIT_REFUSED, "a shell ended before its command", NULL);
		place->shell.pid = 0;
		place->status = status;
		place->state = PLACE_ENDING;
		return;
	}
}

static uint32_t bytes_waiting(int fd)
{
	int count = 0;
	if (fd < 0 || ioctl(fd, FIONREAD, &count) || count < 0)
		return 0;
	return (uint32_t)count;
}

static void send_exit(struct session *session, struct place *place)
{
	uint8_t *payload = writer_room(&session->writer, EXIT_BYTES);
	if (!payload)
		return;
	put_u32(payload, (uint32_t)place->status);
	put_u32(payload + 4, (place->streams[0].truncated ? EXIT_STDOUT_TRUNCATED : 0u) |
				     (place->streams[1].truncated ? EXIT_STDERR_TRUNCATED : 0u) |
				     (place->killed ? EXIT_KILLED : 0u));
	writer_commit(&session->writer, place->call, FRAME_EXIT, EXIT_BYTES);

	place->state = PLACE_OVER;
	session->next_spare_at = now_us() + (count_calls(session) > 0 ? SPARE_BESIDE_CALLS_US : SPARE_AFTER_EXIT_US);
}

static void clean_up(struct place *place)
{
	shell_forget(&place->shell);
	if (place->input)
		munmap(place->input, MAX_STDIN_BYTES);
	place->state = PLACE_FREE;
}

/* Moves a call whose shell is dead as near to its end as it gets now. */
static void advance_end(struct session *session, struct place *place)
{
	if (place->state == PLACE_ENDING && !shell_leaves_processes(&place->shell)) {
		/*
		 * Nobody of the call is left to write, so what is there now is all. Not "until end of file": a
		 * command may have passed its stdout to another one through a socket in the workspace.
		 */
		for (int i = 0; i < 2; i++)
			place->streams[i].drain_left = bytes_waiting(place->shell.ends[i == 0 ? BORN_STDOUT : BORN_STDERR]);
		place->state = PLACE_DRAINING;
	}
	if (place->state != PLACE_DRAINING)
		return;
	while (pump(session, place, 0) || pump(session, place, 1))
		;
	if (place->streams[0].drain_left == 0 && place->streams[1].drain_left == 0)
		send_exit(session, place);
}

/* ---- the loop ---- */

static int flush(struct session *session)
{
	struct frame_writer *writer = &session->writer;
	while (writer->start < writer->end) {
		ssize_t sent = write(session->out, writer->bytes + writer->start, writer->end - writer->start);
		if (sent < 0 && (errno == EAGAIN || errno == EINTR))
			return -1;
		if (sent < 0)
			return EXIT_CLOSED;
		writer_sent(writer, (size_t)sent);
	}
	return -1;
}

static void watch(struct session *session, struct place *place, enum watched what, int fd, short events)
{
	if (fd < 0)
		return;
	assert(session->watching < sizeof session->polled / sizeof *session->polled);
	session->polled[session->watching] = (struct pollfd){.fd = fd, .events = events};
	session->watches[session->watching++] = (struct watch){place, what};
}

static void watch_place(struct session *session, struct place *place, bool room)
{
	const struct shell *shell = &place->shell;
	if (place->state != PLACE_SPARE && place->state != PLACE_RUNNING)
		return;
	if (shell->stage != SHELL_WAITS)
		watch(session, place, WATCH_CHANNEL, shell->channel, POLLIN);
	if (place->state != PLACE_RUNNING)
		return;
	if (place->input_sent < place->input_length || place->input_ended)
		watch(session, place, WATCH_STDIN, shell->ends[BORN_STDIN], POLLOUT);
	if (!room)
		return;
	watch(session, place, WATCH_STDOUT, shell->ends[BORN_STDOUT], POLLIN);
	watch(session, place, WATCH_STDERR, shell->ends[BORN_STDERR], POLLIN);
}

/* Fills session->polled; returns microseconds to wait at most, or -1. */
static int64_t watch_all(struct session *session)
{
	bool room = writer_room(&session->writer, MAX_DATA_BYTES) != NULL;
	int64_t wait = spare_due_in(session);
	session->watching = 0;
	watch(session, NULL, WATCH_FRAMES, session->in, POLLIN);
	watch(session, NULL, WATCH_CHILDREN, session->child_ended, POLLIN);
	if (session->writer.start < session->writer.end)
		watch(session, NULL, WATCH_OUT, session->out, POLLOUT);
	/* Turns, so that no call's output keeps another's from the room there is. */
	session->first_served = (session->first_served + 1) % MAX_SHELLS;
	for (unsigned i = 0; i < MAX_SHELLS; i++) {
		struct place *place = &session->places[(session->first_served + i) % MAX_SHELLS];
		watch_place(session, place, room);
		if (place->state == PLACE_ENDING && (wait < 0 || wait > ENDING_POLL_US))
			wait = ENDING_POLL_US;
	}
	return wait;
}

static void reap_shells(struct session *session)
{
	pid_t pid;
	int status;
	shells_noticed();
	while ((pid = shell_reap(&status)) > 0)
		on_shell_end(session, pid, status);
}

/* Returns as session_step. A place may have moved on since it was watched: each of these looks at its state again. */
static int handle(struct session *session, const struct watch *watch)
{
	switch (watch->what) {
	case WATCH_FRAMES:
		return read_frames(session);
	case WATCH_CHILDREN:
		reap_shells(session);
		break;
	case WATCH_OUT:
		break; /* Every round flushes. */
	case WATCH_CHANNEL:
		hear(session, watch->place);
		break;
	case WATCH_STDIN:
		feed_input(watch->place);
		break;
	case WATCH_STDOUT:
		pump(session, watch->place, 0);
		break;
	case WATCH_STDERR:
		pump(session, watch->place, 1);
		break;
	}
	return -1;
}

int session_step(struct session *session)
{
	int64_t wait = watch_all(session);
	const struct timespec timeout = {.tv_sec = wait / 1000000, .tv_nsec = wait % 1000000 * 1000};
	int ready = ppoll(session->polled, session->watching, wait < 0 ? NULL : &timeout, NULL);
	if (ready < 0 && errno != EINTR)
		give_up(EXIT_REFUSED, "poll", strerror(errno));
	for (unsigned i = 0; ready > 0 && i < session->watching; i++) {
		if (!session->polled[i].revents)
			continue;
		int end = handle(session, &session->watches[i]);
		if (end >= 0)
			return end;
	}
	for (unsigned i = 0; i < MAX_SHELLS; i++) {
		struct place *place = &session->places[(session->first_served + i) % MAX_SHELLS];
		if (place->state == PLACE_ENDING || place->state == PLACE_DRAINING)
			advance_end(session, place);
	}
	int end = flush(session);
	/* What follows comes after the flush, so that no answer waits for it. */
	for (unsigned i = 0; i < MAX_SHELLS; i++)
		if (session->places[i].state == PLACE_OVER)
			clean_up(&session->places[i]);
	if (end < 0 && spare_due_in(session) == 0)
		start_spare(session);
	return end;
}
