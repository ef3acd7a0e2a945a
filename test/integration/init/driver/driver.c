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

#include "api.h"
#include "dice.h"
#include "shells.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

enum { BAD = EXIT_BAD_FRAME };

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
	shell_count = 0;
	api_forgets();
	forget_received();
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
	api_forgets();
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
