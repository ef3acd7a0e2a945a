#define _GNU_SOURCE
#include "session.h"
#include "calls.h"
#include "spares.h"
#include "streams.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void session_init(struct session *session, int in, int out, int child_ended, unsigned spares)
{
	session->in = in;
	session->out = out;
	session->child_ended = child_ended;
	session->spares_wanted = spares;
	assert(spares <= MAX_SPARES);
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
		if (place->state == PLACE_ENDING && (wait < 0 || wait > place->look_again_us))
			wait = place->look_again_us;
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
