/* A command's stdin, stdout and stderr. */
#ifndef STREAMS_H
#define STREAMS_H

#include "session.h"

/* Writes what the command takes of its stdin now. */
void feed_input(struct place *place);

/* Passes on a piece of stdout (0) or stderr (1). False when there is nothing to do now: no output, or no room. */
bool pump(struct session *session, struct place *place, int which);

/* With all writers dead: what the pipes hold now is all that is still to be passed on. */
void start_draining(struct place *place);

bool is_drained(const struct place *place);

#endif
