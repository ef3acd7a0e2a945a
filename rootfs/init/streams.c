#include "streams.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <unistd.h>

void feed_input(struct place *place)
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

static int *output_end(struct place *place, int which)
{
	return &place->shell.ends[which == 0 ? BORN_STDOUT : BORN_STDERR];
}

bool pump(struct session *session, struct place *place, int which)
{
	struct stream *stream = &place->streams[which];
	int *end = output_end(place, which);
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

static uint32_t bytes_waiting(int fd)
{
	int count = 0;
	if (fd < 0 || ioctl(fd, FIONREAD, &count) || count < 0)
		return 0;
	return (uint32_t)count;
}

/*
 * Not "until end of file": a command may have passed its stdout to another one through a socket in the workspace, and that one
 * may go on writing for ever.
 */
void start_draining(struct place *place)
{
	for (int which = 0; which < 2; which++)
		place->streams[which].drain_left = bytes_waiting(*output_end(place, which));
	place->state = PLACE_DRAINING;
}

bool is_drained(const struct place *place)
{
	return place->streams[0].drain_left == 0 && place->streams[1].drain_left == 0;
}
