#include "dice.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

struct dice dice;

uint32_t roll(uint32_t sides)
{
	if (dice.bytes) {
		uint32_t value = 0;
		for (int i = 0; i < (sides > 256 ? 4 : 1) && dice.left; i++, dice.left--)
			value = value << 8 | *dice.bytes++;
		return value % sides;
	}
	dice.state += 0x9e3779b97f4a7c15;
	uint64_t z = dice.state;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return (uint32_t)((z ^ z >> 31) % sides);
}

uint64_t round_seed;

_Noreturn void fail(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	fprintf(stderr, "FAILED with seed %llu: ", (unsigned long long)round_seed);
	vfprintf(stderr, format, arguments);
	fprintf(stderr, "\n");
	abort();
}

uint8_t byte_at(uint32_t call, int stream, size_t at)
{
	return (uint8_t)(call * 31 + (uint32_t)stream * 7 + at + (at >> 8));
}
