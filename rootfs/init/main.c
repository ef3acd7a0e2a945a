/* The first process of an exec sandbox. See README.md. */
#define _GNU_SOURCE
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_USAGE = 64 };

static struct session session;

/* A plain decimal number from 1 to `most`. */
static unsigned number(const char *text, unsigned most)
{
	unsigned value = 0;
	for (const char *digit = text; *digit; digit++) {
		if (*digit < '0' || *digit > '9' || value > most / 10)
			give_up(EXIT_USAGE, "not a number in range", text);
		value = value * 10 + (unsigned)(*digit - '0');
	}
	if (value < 1 || value > most)
		give_up(EXIT_USAGE, "not a number in range", text);
	return value;
}

static void make_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
		give_up(EXIT_REFUSED, "set stdio non-blocking", strerror(errno));
}

int main(int count, char **arguments)
{
	static struct limits limits = {.processes = 200, .file_mb = 4096, .tmp_mb = 256};
	unsigned spares = 2;
	for (int i = 1; i < count; i += 2) {
		const char *name = arguments[i];
		if (i + 1 == count)
			give_up(EXIT_USAGE, "no value after", name);
		if (!strcmp(name, "--nproc"))
			limits.processes = number(arguments[i + 1], 100000);
		else if (!strcmp(name, "--fsize-mb"))
			limits.file_mb = number(arguments[i + 1], 1000000);
		else if (!strcmp(name, "--tmp-mb"))
			limits.tmp_mb = number(arguments[i + 1], 1000000);
		else if (!strcmp(name, "--spares"))
			spares = number(arguments[i + 1], MAX_SPARES);
		else
			give_up(EXIT_USAGE, "unknown argument", name);
	}

	make_nonblocking(0);
	make_nonblocking(1);
	session_init(&session, 0, 1, shells_prepare(&limits), spares);
	int end;
	while ((end = session_step(&session)) < 0)
		;
	give_up(end, end == EXIT_CLOSED ? "the other side closed" : "a bad frame", NULL);
}
