#include "api.h"

#include "dice.h"
#include "frames.h"
#include "session.h"
#include "shells.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { OUTPUT_BYTES = 300 * 1024 };

struct call calls[CALLS + 1];
uint32_t last_call;
unsigned running;
bool fault_sent, ready_seen;

uint8_t *unsent;
size_t unsent_start, unsent_end;
static size_t unsent_room;

void api_forgets(void)
{
	memset(calls, 0, sizeof calls);
	last_call = running = 0;
	unsent_start = unsent_end = 0;
	fault_sent = ready_seen = false;
}

uint8_t *queue(size_t length)
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

void api_sends_right(void)
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

void api_sends_wrong(void)
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

void api_ends(bool wrong)
{
	for (uint32_t call = 1; call <= last_call; call++)
		if (calls[call].ran && calls[call].with_stdin && !calls[call].input_ended)
			queue_stdin(call, 0);
	if (wrong)
		api_sends_wrong();
}

void send_some(int fd)
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
