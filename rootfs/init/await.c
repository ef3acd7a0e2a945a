/*
 * Two loadable builtins for bash, with which spare.bash waits for a command and then makes it the one of `bash -c`.
 *
 * Built without bash's headers: the few names below are what bash has exported to its loadable builtins for decades.
 */
#include <errno.h>
#include <stddef.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* From bash. */
extern char *command_execution_string;
extern time_t shell_start_time;
extern struct timeval shellstart;
void *xmalloc(size_t bytes);
void *bind_variable(const char *name, char *value, int flags);

enum { BUILTIN_ENABLED = 1, EXECUTION_FAILURE = 1, EXECUTION_SUCCESS = 0 };

struct builtin {
	const char *name;
	int (*function)(void *words);
	int flags;
	const char *const *long_doc;
	const char *short_doc;
	char *handle;
};

enum { CHANNEL_FD = 3, INPUT_FD = 4, MAX_COMMAND_BYTES = 128 * 1024 };
static const char waits = 'w'; /* MESSAGE_WAITS of confine.h */
static char *command;

/* Waits for the command on the channel, and puts it into BASH_EXECUTION_STRING. */
static int await_builtin(void *words)
{
	/* One byte, whether there is a stdin, and the command. */
	char *message = xmalloc(1 + MAX_COMMAND_BYTES + 1);
	ssize_t length;
	(void)words;
	if (write(CHANNEL_FD, &waits, 1) != 1)
		return EXECUTION_FAILURE;
	do
		length = read(CHANNEL_FD, message, 1 + MAX_COMMAND_BYTES);
	while (length < 0 && errno == EINTR);
	if (length < 1 || close(CHANNEL_FD))
		return EXECUTION_FAILURE;
	message[length] = 0;
	/* Until then /dev/null is there. */
	if ((message[0] && dup2(INPUT_FD, 0) < 0) || close(INPUT_FD))
		return EXECUTION_FAILURE;
	command = message + 1;
	bind_variable("BASH_EXECUTION_STRING", command, 0);
	/* SECONDS counts from here, not from when the waiting began. */
	gettimeofday(&shellstart, NULL);
	shell_start_time = shellstart.tv_sec;
	return EXECUTION_SUCCESS;
}

/* Puts the command in the place of the one that this bash was started with. It stays there to the end, so it is not freed. */
static int proceed_builtin(void *words)
{
	(void)words;
	if (!command)
		return EXECUTION_FAILURE;
	command_execution_string = command;
	return EXECUTION_SUCCESS;
}

static const char *const await_doc[] = {"Waits for the command of this shell.", NULL};
static const char *const proceed_doc[] = {"Makes what await got the command of this shell.", NULL};

struct builtin await_struct = {"await", await_builtin, BUILTIN_ENABLED, await_doc, "await", NULL};
struct builtin proceed_struct = {"proceed", proceed_builtin, BUILTIN_ENABLED, proceed_doc, "proceed", NULL};
