/*
 * System calls without libc. A new shell shares init's memory, libc's errno included, until its execve, while init goes on:
 * so the code of a birth must call nothing that writes there.
 */
#ifndef RAW_H
#define RAW_H

#include <stdint.h>

/* Returns what the kernel does: -errno for a failure. */
static inline long raw_syscall(long number, long a, long b, long c, long d, long e)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}

#define RAW(number, ...) RAW_FILLED(number, __VA_ARGS__, 0, 0, 0, 0, 0)
#define RAW_FILLED(number, a, b, c, d, e, ...)                                                                       \
	raw_syscall(number, (long)(intptr_t)(a), (long)(intptr_t)(b), (long)(intptr_t)(c), (long)(intptr_t)(d),      \
		    (long)(intptr_t)(e))

#endif
