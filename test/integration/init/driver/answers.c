/* What comes from the init, and whether it is right. */
#include "api.h"

#include "dice.h"
#include "session.h"
#include "shells.h"

#include <string.h>
#include <sys/socket.h>

static uint8_t received[HEADER_BYTES + MAX_DATA_BYTES + 100000];
static size_t received_count;

static uint32_t u32_at(const uint8_t *bytes)
{
	return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
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

void forget_received(void)
{
	received_count = 0;
}

void receive_some(int fd)
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
