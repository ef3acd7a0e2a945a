/* The made-up api: what it sends by the dice, what it knows of its calls, and what it checks in the answers. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CALLS = 200 };

extern struct call {
	bool ran, ended, with_stdin, input_ended, killed;
	uint32_t cap;
	size_t input, got[2];
} calls[CALLS + 1];
extern uint32_t last_call;
extern unsigned running;
extern bool fault_sent, ready_seen;

/* What is still to be sent. */
extern uint8_t *unsent;
extern size_t unsent_start, unsent_end;

/* Nothing sent, nothing known. */
void api_forgets(void);
uint8_t *queue(size_t length);
void api_sends_right(void);
/* One thing that is never allowed. */
void api_sends_wrong(void);
/* All input ends, or it all ends in a fault. */
void api_ends(bool wrong);
void send_some(int fd);

/* Takes answers, checking each, and forgets half of one. */
void receive_some(int fd);
void forget_received(void);
