/* Calls from their first frame to their last. */
#ifndef CALLS_H
#define CALLS_H

#include "session.h"

unsigned count_calls(const struct session *session);

/* False for a frame that is not allowed as things are. */
bool handle_frame(struct session *session, const struct frame *frame);

/* A shell has ended, a call's or a spare's. */
void on_shell_end(struct session *session, pid_t pid, int status);

/* Moves a call whose shell is dead as near to its end as it gets now. */
void advance_end(struct session *session, struct place *place);

/* Frees the place of a call whose EXIT is on its way. */
void clean_up(struct place *place);

#endif
