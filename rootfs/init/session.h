/* All the calls of one sandbox: frames in, shells, frames out. */
#ifndef SESSION_H
#define SESSION_H

#include "frames.h"
#include "shell.h"

#include <poll.h>

enum {
	MAX_SPARES = 8,
	MAX_SHELLS = MAX_CALLS + MAX_SPARES,
	EXIT_CLOSED = 0,
	EXIT_BAD_FRAME = 65,
};

enum place_state {
	PLACE_FREE,
	PLACE_SPARE,
	PLACE_RUNNING,	/* has a call from here on */
	PLACE_ENDING,	/* its shell is dead, what it started is dying */
	PLACE_DRAINING, /* all are dead, what they wrote before is being passed on */
	PLACE_OVER, /* its EXIT is on its way, to be followed by the cleaning up */
};

struct stream {
	uint32_t cap_left;
	uint32_t drain_left; /* PLACE_DRAINING: bytes that were there when the last writer died */
	bool truncated;
};

struct place {
	enum place_state state;
	struct shell shell;
	uint32_t call;
	int status;
	bool killed;
	int64_t look_again_us; /* PLACE_ENDING: until the next look at what its shell has left */
	struct stream streams[2]; /* stdout, stderr */
	/* stdin: mapped for a call that has one. No ring: all of it together has a bound. */
	uint8_t *input;
	uint32_t input_length, input_sent;
	bool input_wanted, input_ended;
};

enum watched { WATCH_FRAMES, WATCH_CHILDREN, WATCH_OUT, WATCH_CHANNEL, WATCH_STDIN, WATCH_STDOUT, WATCH_STDERR };

struct watch {
	struct place *place;
	enum watched what;
};

struct session {
	int in, out, child_ended;
	unsigned spares_wanted;
	bool ready_told;
	uint32_t last_call;
	int64_t next_spare_at; /* microseconds */
	unsigned first_served; /* turns, so that no call's output starves another's */
	struct frame_reader reader;
	struct frame_writer writer;
	struct place places[MAX_SHELLS];
	uint8_t stacks[MAX_SHELLS][BIRTH_STACK_BYTES] __attribute__((aligned(16)));
	/* What this round waits for. */
	unsigned watching;
	struct pollfd polled[3 + 4 * MAX_SHELLS];
	struct watch watches[3 + 4 * MAX_SHELLS];
};

/* One round: waits for something to happen and deals with it. Returns -1 to go on, or the status to end with. */
int session_step(struct session *session);

/* In and out are made non-blocking by the caller. */
void session_init(struct session *session, int in, int out, int child_ended, unsigned spares);

#endif
