#include "spares.h"
#include "calls.h"

#include <assert.h>
#include <stddef.h>
#include <time.h>

enum {
	/* A new spare takes some 10 ms of processor time: it waits until the answer is out, or, next to a long command, for a lull. */
	SPARE_AFTER_EXIT_US = 3 * 1000,
	SPARE_BESIDE_CALLS_US = 100 * 1000,
};

static int64_t now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

struct place *start_spare(struct session *session)
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

struct place *find_spare(struct session *session)
{
	struct place *best = NULL;
	for (unsigned i = 0; i < MAX_SHELLS; i++) {
		struct place *place = &session->places[i];
		if (place->state == PLACE_SPARE && (!best || place->shell.stage > best->shell.stage))
			best = place;
	}
	return best;
}

int64_t spare_due_in(const struct session *session)
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

void put_off_spares(struct session *session)
{
	session->next_spare_at = now_us() + (count_calls(session) > 0 ? SPARE_BESIDE_CALLS_US : SPARE_AFTER_EXIT_US);
}

void hear(struct session *session, struct place *place)
{
	shell_hear(&place->shell);
	if (session->ready_told || place->shell.stage != SHELL_WAITS)
		return;
	uint8_t *payload = writer_room(&session->writer, 4);
	assert(payload); /* No command has written anything before the first shell waits. */
	put_u32(payload, PROTOCOL_VERSION);
	writer_commit(&session->writer, 0, FRAME_READY, 4);
	session->ready_told = true;
}
