/* From a table of rules to a seccomp program. */
#include "filter.h"

#include <assert.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stddef.h>

enum {
	MAX_RULES = 80,
	/* open_tree_attr. What comes after is unknown to us and answered as not there; so are x32's numbers, far beyond. */
	LAST_KNOWN = 467,
};

static struct sock_filter code[16 + 7 * MAX_RULES];
static unsigned short used;

static void emit(uint16_t op, uint32_t value, uint8_t when_true, uint8_t when_false)
{
	assert(used < sizeof code / sizeof *code);
	code[used++] = (struct sock_filter){.code = op, .jt = when_true, .jf = when_false, .k = value};
}

static void load(size_t offset)
{
	emit(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void answer(uint32_t action)
{
	emit(BPF_RET | BPF_K, action, 0, 0);
}

/* With the call's number loaded, and all rules but one ruled out. */
static void emit_rule(const struct rule *rule)
{
	emit(BPF_JMP | BPF_JEQ | BPF_K, rule->call, 1, 0);
	answer(SECCOMP_RET_ALLOW);
	if (rule->when != ALWAYS) {
		load(offsetof(struct seccomp_data, args) + (rule->when == WHEN_SECOND_IS ? sizeof(uint64_t) : 0));
		if (rule->when == UNLESS_EQUAL)
			emit(BPF_JMP | BPF_JEQ | BPF_K, rule->value, 0, 1);
		else if (rule->when == WHEN_EQUAL || rule->when == WHEN_SECOND_IS)
			emit(BPF_JMP | BPF_JEQ | BPF_K, rule->value, 1, 0);
		else
			emit(BPF_JMP | BPF_JSET | BPF_K, rule->value, 1, 0);
		answer(SECCOMP_RET_ALLOW);
	}
	answer(SECCOMP_RET_ERRNO | rule->error);
}

/* Halves rules[from..to): gVisor runs the program once for each call there is when it is loaded, so its depth counts. */
static void emit_search(const struct rule *rules, unsigned from, unsigned to)
{
	if (to - from == 1) {
		emit_rule(&rules[from]);
		return;
	}
	unsigned middle = (from + to) / 2;
	unsigned short jump = used;
	emit(BPF_JMP | BPF_JGE | BPF_K, rules[middle].call, 0, 0);
	emit_search(rules, from, middle);
	assert(used - jump - 1 <= UINT8_MAX);
	code[jump].jt = (uint8_t)(used - jump - 1);
	emit_search(rules, middle, to);
}

const struct sock_fprog *filter_program(const struct rule *rules, unsigned count)
{
	static struct sock_fprog program;
	if (program.filter)
		return &program;
	assert(count > 0 && count <= MAX_RULES);
	for (unsigned i = 1; i < count; i++)
		assert(rules[i - 1].call < rules[i].call);

	load(offsetof(struct seccomp_data, arch));
	emit(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
	answer(SECCOMP_RET_KILL_PROCESS);
	load(offsetof(struct seccomp_data, nr));
	emit(BPF_JMP | BPF_JGT | BPF_K, LAST_KNOWN, 0, 1);
	answer(SECCOMP_RET_ERRNO | ENOSYS);
	emit_search(rules, 0, count);
	program.len = used;
	program.filter = code;
	return &program;
}
