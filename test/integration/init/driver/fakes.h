/*
 * The calls by which rootfs/init/shell.c touches processes, replaced for the driver (compiled in with -include): no process is
 * started, nothing is mounted, and the end of the init is a jump back into the driver. All else of the init is the real code.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

int fake_clone(int (*function)(void *), void *stack, int flags, void *argument);
pid_t fake_waitpid(pid_t pid, int *status, int options);
int fake_kill(pid_t pid, int number);
int fake_signalfd(int fd, const sigset_t *mask, int flags);
_Noreturn void fake_exit(int status);

#define clone fake_clone
#define waitpid fake_waitpid
#define kill fake_kill
#define signalfd fake_signalfd
#define _exit fake_exit
