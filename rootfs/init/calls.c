#define _GNU_SOURCE
#include "calls.h"
#include "spares.h"
#include "streams.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum { LOOK_AGAIN_FIRST_US = 100, LOOK_AGAIN_MOST_US = 10000 };

static bool has_call(const struct place *place)
{
	return place->state >= PLACE_RUNNING && place->state <= PLACE_DRAINING;
}

unsigned count_calls(const struct session *session)
{
	unsigned count = 0;
	for (unsigned i = 0; i < MAX_SHELLS; i++)
		count += has_call(&session->places[i]);
	return count;
}

/* ---- frames ---- */

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
	put_off_spares(session);
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

bool handle_frame(struct session *session, const struct frame *frame)
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

/* ---- the end ---- */

void on_shell_end(struct session *session, pid_t pid, int status)
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
		place->look_again_us = LOOK_AGAIN_FIRST_US;
		return;
	}
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
	put_off_spares(session);
}

void clean_up(struct place *place)
{
	shell_forget(&place->shell);
	if (place->input)
		munmap(place->input, MAX_STDIN_BYTES);
	place->state = PLACE_FREE;
}

void advance_end(struct session *session, struct place *place)
{
	if (place->state == PLACE_ENDING) {
		if (shell_leaves_processes(&place->shell)) {
			place->look_again_us *= place->look_again_us < LOOK_AGAIN_MOST_US ? 2 : 1;
			return;
		}
		start_draining(place);
	}
	if (place->state != PLACE_DRAINING)
		return;
	while (pump(session, place, 0) || pump(session, place, 1))
		;
	if (is_drained(place))
		send_exit(session, place);
}
