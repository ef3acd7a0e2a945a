/* Shells that wait for a command to come. */
#ifndef SPARES_H
#define SPARES_H

#include "session.h"

#include <stdint.h>

struct place *start_spare(struct session *session);

/* The spare that is the furthest on its way, or NULL. */
struct place *find_spare(struct session *session);

/* Microseconds until a spare should be started; -1 when none is wanted. One starts at a time. */
int64_t spare_due_in(const struct session *session);

/* Start none for a while: a command has come, or gone. */
void put_off_spares(struct session *session);

/* Takes note of what a shell says before it has a command; the first that waits makes the sandbox READY. */
void hear(struct session *session, struct place *place);

#endif
