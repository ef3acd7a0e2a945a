/* What init sets for itself and all its commands, and what a new process does to itself before it becomes a shell. */
#ifndef CONFINE_H
#define CONFINE_H

struct limits {
	unsigned processes; /* of one sandbox together: they have one uid */
	unsigned file_mb;
	unsigned tmp_mb; /* /tmp and /dev/shm, each */
};

enum { TENANT_ID = 10000, EXIT_REFUSED = 71 };

/* Ends the init, and with it everything in the sandbox. */
_Noreturn void give_up(int status, const char *what, const char *why);

/* Walls that a command inherits are built once, around init itself. Before the first birth. */
void confine_self(const struct limits *limits);

/*
 * A new shell and init talk over a channel, a pair of SOCK_SEQPACKET sockets. From the shell: BORN with BORN_FDS descriptors,
 * or REFUSED with text; then, from await.c, WAITS. From init: one byte, whether there is a stdin, and the command.
 */
enum channel_message { MESSAGE_BORN = 'b', MESSAGE_REFUSED = 'r', MESSAGE_WAITS = 'w' };

/* What comes with BORN: init's ends of the shell's stdio, and the shell's /proc. */
enum born_fd { BORN_STDIN, BORN_STDOUT, BORN_STDERR, BORN_PROC, BORN_FDS };

/*
 * Runs in a new process that has its own PID, mount, IPC, network and UTS namespaces, and shares init's memory (but not its
 * descriptors) until the execve. `channel` is the shell's end, as a pointer for clone(2).
 */
int confine_and_exec(void *channel);

#endif
