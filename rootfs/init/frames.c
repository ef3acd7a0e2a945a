#include "frames.h"

#include <assert.h>
#include <string.h>

static uint32_t get_u32(const uint8_t *bytes)
{
	return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

void put_u32(uint8_t *bytes, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		bytes[i] = (uint8_t)(value >> 8 * i);
}

uint8_t *reader_room(struct frame_reader *reader, size_t *room)
{
	if (reader->start > 0) {
		memmove(reader->bytes, reader->bytes + reader->start, reader->end - reader->start);
		reader->end -= reader->start;
		reader->start = 0;
	}
	*room = sizeof reader->bytes - reader->end;
	return reader->bytes + reader->end;
}

void reader_filled(struct frame_reader *reader, size_t count)
{
	assert(count <= sizeof reader->bytes - reader->end);
	reader->end += count;
}

static bool length_allowed(uint8_t type, uint32_t length)
{
	switch (type) {
	case FRAME_RUN:
		return length >= RUN_HEAD_BYTES && length <= RUN_HEAD_BYTES + MAX_COMMAND_BYTES;
	case FRAME_STDIN:
		return length <= MAX_DATA_BYTES;
	case FRAME_KILL:
		return length == 0;
	default:
		return false;
	}
}

enum frame_result frame_next(struct frame_reader *reader, struct frame *frame)
{
	const uint8_t *header = reader->bytes + reader->start;
	size_t held = reader->end - reader->start;
	if (held < HEADER_BYTES)
		return FRAME_MORE;
	frame->length = get_u32(header);
	frame->call = get_u32(header + 4);
	frame->type = header[8];
	frame->payload = header + HEADER_BYTES;
	if (header[9] || header[10] || header[11] || frame->call == 0 || !length_allowed(frame->type, frame->length))
		return FRAME_BAD;
	if (held - HEADER_BYTES < frame->length)
		return FRAME_MORE;
	reader->start += HEADER_BYTES + frame->length;
	return FRAME_WHOLE;
}

bool parse_run(const struct frame *frame, struct run *run)
{
	const uint8_t *head = frame->payload;
	assert(frame->type == FRAME_RUN && frame->length >= RUN_HEAD_BYTES);
	if (head[4] > 1 || head[5] || head[6] || head[7])
		return false;
	run->output_cap = get_u32(head);
	run->with_stdin = head[4] == 1;
	run->command = (const char *)head + RUN_HEAD_BYTES;
	run->length = frame->length - RUN_HEAD_BYTES;
	return memchr(run->command, 0, run->length) == NULL;
}

uint8_t *writer_room(struct frame_writer *writer, uint32_t length)
{
	size_t need = HEADER_BYTES + (size_t)length;
	if (sizeof writer->bytes - (writer->end - writer->start) < need)
		return NULL;
	if (sizeof writer->bytes - writer->end < need) {
		memmove(writer->bytes, writer->bytes + writer->start, writer->end - writer->start);
		writer->end -= writer->start;
		writer->start = 0;
	}
	return writer->bytes + writer->end + HEADER_BYTES;
}

void writer_commit(struct frame_writer *writer, uint32_t call, enum frame_type type, uint32_t length)
{
	uint8_t *header = writer->bytes + writer->end;
	assert(sizeof writer->bytes - writer->end >= HEADER_BYTES + (size_t)length);
	put_u32(header, length);
	put_u32(header + 4, call);
	put_u32(header + 8, type);
	writer->end += HEADER_BYTES + (size_t)length;
}

void writer_sent(struct frame_writer *writer, size_t count)
{
	assert(count <= writer->end - writer->start);
	writer->start += count;
	if (writer->start == writer->end)
		writer->start = writer->end = 0;
}
