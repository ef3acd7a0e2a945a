/* The frames between api and this init. src/protocol/frames.ts is the contract; the names here are the same. */
#ifndef FRAMES_H
#define FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	PROTOCOL_VERSION = 1,
	HEADER_BYTES = 12,
	RUN_HEAD_BYTES = 8,
	EXIT_BYTES = 8,
	MAX_COMMAND_BYTES = 128 * 1024,
	MAX_DATA_BYTES = 64 * 1024,
	MAX_STDIN_BYTES = 1024 * 1024,
	MAX_CALLS = 64,
};

enum frame_type {
	FRAME_RUN = 1,
	FRAME_STDIN = 2,
	FRAME_KILL = 3,
	FRAME_READY = 16,
	FRAME_STDOUT = 17,
	FRAME_STDERR = 18,
	FRAME_EXIT = 19,
};

enum { EXIT_STDOUT_TRUNCATED = 1, EXIT_STDERR_TRUNCATED = 2, EXIT_KILLED = 4 };

struct frame {
	uint32_t call;
	uint32_t length;
	const uint8_t *payload; /* Good until the reader is given room again. */
	uint8_t type;
};

/* Collects bytes as they come and gives out whole frames. Holds the longest frame there is, and some of the next. */
struct frame_reader {
	size_t start, end;
	uint8_t bytes[2 * (HEADER_BYTES + RUN_HEAD_BYTES + MAX_COMMAND_BYTES)];
};

/* Where to put new bytes, and how many fit. There is always room once frame_next has said FRAME_MORE. */
uint8_t *reader_room(struct frame_reader *reader, size_t *room);
void reader_filled(struct frame_reader *reader, size_t count);

enum frame_result { FRAME_BAD = -1, FRAME_MORE = 0, FRAME_WHOLE = 1 };

/* The next frame. FRAME_BAD as soon as the header shows a fault: its payload is not waited for. */
enum frame_result frame_next(struct frame_reader *reader, struct frame *frame);

/* A RUN's payload, taken apart. */
struct run {
	uint32_t output_cap;
	bool with_stdin;
	const char *command; /* Not terminated. */
	uint32_t length;
};

/* False when the payload is not allowed. */
bool parse_run(const struct frame *frame, struct run *run);

/* Frames that wait to be written. Reading commands' output stops while there is no room for a whole piece of it. */
struct frame_writer {
	size_t start, end;
	uint8_t bytes[1024 * 1024];
};

/* Room for a frame with `length` bytes of payload: where to put the payload, or NULL while there is none. */
uint8_t *writer_room(struct frame_writer *writer, uint32_t length);
/* Finishes the frame whose payload was put there; `length` may be less than was asked for. */
void writer_commit(struct frame_writer *writer, uint32_t call, enum frame_type type, uint32_t length);
void writer_sent(struct frame_writer *writer, size_t count);

void put_u32(uint8_t *bytes, uint32_t value);

#endif
