/* The system calls that a command may not make. */
#ifndef FILTER_H
#define FILTER_H

#include <linux/filter.h>

/* Builds the program once; good for the life of the process. */
const struct sock_fprog *filter_program(void);

#endif
