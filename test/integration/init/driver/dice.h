/* The dice that all made-up things roll, and what to say when a round went wrong. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* Numbers from `state` on, or from `bytes` while there are any. */
extern struct dice {
	uint64_t state;
	const uint8_t *bytes;
	size_t left;
} dice;
extern uint64_t round_seed;

uint32_t roll(uint32_t sides);

_Noreturn void fail(const char *format, ...);

#define CHECK(truth, ...)                                                                                            \
	do {                                                                                                         \
		if (!(truth))                                                                                        \
			fail(__VA_ARGS__);                                                                           \
	} while (0)

/* What stream `stream` of call `call` holds at `at`. */
uint8_t byte_at(uint32_t call, int stream, size_t at);
