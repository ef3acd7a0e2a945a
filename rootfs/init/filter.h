/* Which system calls a tenant's process may not make. */
#ifndef FILTER_H
#define FILTER_H

#include <linux/filter.h>
#include <linux/sched.h>
#include <stdint.h>

/* Some are refused only by the low half of their first argument, or their second; the kernel takes all of these as 32 bits. */
enum when { ALWAYS, UNLESS_EQUAL, WHEN_EQUAL, WHEN_SECOND_IS, WHEN_ANY_OF };

struct rule {
	uint16_t call, error;
	enum when when;
	uint32_t value;
};

#define NEW_NAMESPACES                                                                                              \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)

/* Rules sorted by number. Builds the one program of a process once; good for its life. */
const struct sock_fprog *filter_program(const struct rule *rules, unsigned count);

/* Of a command in an exec sandbox: command-filter.c. */
const struct sock_fprog *command_filter(void);

#endif
