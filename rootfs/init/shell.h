/* Shells as processes: start one, hand it its script, see it end. Nothing here knows of frames. */
#ifndef SHELL_H
#define SHELL_H

#include "confine.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum shell_stage { SHELL_UNBORN, SHELL_BORN, SHELL_WAITS };

struct shell {
	pid_t pid;
	enum shell_stage stage;
	int channel;
	int ends[BORN_FDS]; /* by enum born_fd; each -1 before SHELL_BORN and once closed */
};

/* Before the first start. Returns a descriptor that is readable when a shell may have ended. */
int shells_prepare(const struct limits *limits);

/* The stack of a birth: in use until the shell is SHELL_WAITS, or ended. */
enum { BIRTH_STACK_BYTES = 16 * 1024 };

/* Starts a shell that will wait for a script; does not wait for it to. */
void shell_start(struct shell *shell, void *stack);

/* Reads what the shell has to say before its command: its stage rises. Gives up when the kernel refused it a wall. */
void shell_hear(struct shell *shell);

/* Hands the shell its script, at any stage. */
void shell_send_script(struct shell *shell, const char *script, size_t length, bool with_stdin);

void shell_kill(const struct shell *shell);

/* Takes note of what made the descriptor readable: before the shell_reaps, or an end could be missed. */
void shells_noticed(void);

/* A shell that has ended, and its status as bash gives it (128+n for a signal), or 0. */
pid_t shell_reap(int *status);

/* Whether any process that the ended shell started is still there: all of them have been killed, but not waited for. */
bool shell_leaves_processes(const struct shell *shell);

/* Closes what the ended shell has left open here. */
void shell_forget(struct shell *shell);

void close_end(int *end);

#endif
