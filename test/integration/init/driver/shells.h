/* The made-up shells: what the init starts instead of processes, and what they do by the dice. */
#pragma once
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SHELLS = 400 };

extern struct fake_shell {
	int channel, in, out[2];
	int thief; /* another end to read its stdout from */
	bool alive, reaped, born, waits;
	bool stolen; /* what the thief took is not missed */
	bool reads_all, closes_early;
	uint32_t call; /* as its script says */
	bool with_stdin;
	int status;
	size_t wrote[2], wanted[2], read;
	bool read_end;
} shells[SHELLS];
extern int shell_count, ended_event;
extern bool heavy; /* a round with much output */
/* What a shell's processes are looked for in: none, and perhaps one. */
extern int empty_directory, full_directory;
extern jmp_buf init_ended;

void shell_acts(struct fake_shell *shell);
void end_shell(struct fake_shell *shell, int status);
struct fake_shell *shell_of(uint32_t call);
void close_fd(int *fd);
