import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { InitSandbox, mountInitRoot } from "../../fixtures/init-sandbox.ts";

/**
 * A command in a waiting shell must do what `bash -c COMMAND` does. Each of these is run both ways in one sandbox, and
 * exit code, stdout and stderr are compared byte for byte.
 */
const commands = [
  "true",
  "false",
  "",
  "   \n\n  # only a comment",
  "exit 7",
  "exit 256",
  "exit -1",
  "(exit 9)",
  "echo hi",
  "echo a; echo b >&2; false",
  "printf 'no newline'",
  "printf 'a\\0b\\377' | od -c",
  // What the shell says of itself.
  'echo $0 $- $# "[$*]" $? $$ $PPID',
  "echo $BASH_EXECUTION_STRING; echo $BASH_SUBSHELL $SHLVL $BASH_ARGC ${#BASH_ARGV[@]} ${#FUNCNAME[@]}",
  'echo "$_"',
  "echo $LINENO\necho $LINENO\n\necho $LINENO",
  "trap 'echo line $LINENO' ERR\n\nfalse\n\nfalse",
  "f() { echo ${FUNCNAME[0]} ${BASH_LINENO[0]} ${BASH_SOURCE[0]}; caller; }\nf\n f",
  "echo $SECONDS",
  "declare -F; alias; trap; shopt -p; set -o",
  // Variables: those that a shell makes anew differ by themselves.
  "declare -p | grep -v -E ' (BASHPID|BASH_ARGC|EPOCH[A-Z]*|RANDOM|SRANDOM|BASH_EXECUTION_STRING|BASH_VERSINFO|PIPESTATUS|_)='",
  "env | sort",
  "exec env",
  "enable | sort; enable -n; type await; help await",
  "compgen -v | grep -v PIPESTATUS | sort; compgen -A function; compgen -b | sort",
  "echo ${BASH_ENV-unset}",
  "ulimit -a; umask; pwd",
  // Descriptors: only 0, 1 and 2.
  "cd /proc/self/fd && ls",
  "for f in /proc/$$/fd/*; do echo ${f##*/}; done",
  "exec 3>&1; echo three >&3; exec 3>&-; echo gone >&3",
  "exec 2>&1; nosuchcommand",
  "exec >/tmp/out; echo hidden; cat /tmp/out >&2",
  // Errors: prefix, line and status.
  "nosuchcommand",
  "\n\nnosuchcommand a b",
  "/no/such/file",
  "/etc/passwd",
  "cd /nonexistent; echo $?",
  "if",
  "echo one; if; echo two",
  "echo one\nif\necho two",
  "echo 'unfinished",
  "echo $(unfinished",
  "echo ${bad-substitution",
  "echo ${bad substitution}; echo after",
  "cat <<EOF\nno end",
  "cat <<EOF\nbody $((1+1))\nEOF\necho after",
  ") echo",
  "for i in 1 2; do echo $i; done; done",
  "echo a &&",
  "echo trailing \\",
  "return 3; echo after",
  "break; continue; echo after $?",
  "let 1/0; echo $?; echo $((1/0)); echo after",
  "readonly x=1; x=2; echo after",
  "unset nope; : ${nope:?is missing}; echo after",
  "local x=1; echo $?",
  "shift 5; echo $?",
  "exec /no/such/program; echo after",
  "shopt -s execfail; exec /no/such/program; echo after $?",
  "command -v nothing; type nothing; echo $?",
  "test 1 -eq x; [ a; [[ a -eq 1/0 ]]; echo $?",
  // Options.
  "set -e; false; echo after",
  "set -e; if false; then :; fi; false || echo rescued; (false); echo after",
  "set -eo pipefail; false | true; echo after",
  "set -e; trap 'echo exit $?' EXIT; false; echo after",
  "set -u; echo $nope; echo after",
  "set -x; echo hi; f() { echo in; }; f; eval 'echo evaluated'",
  "set -v\necho hi\necho there",
  "set -n; echo hi",
  "set -o posix; echo $-; export x=1; . nosuch; echo after",
  "set -m; echo $-; sleep 0 & wait $!; echo $?",
  "set -- a b c; echo $# $2; shift; echo $*",
  "shopt -s extglob nullglob\necho /no/such/* @(a|b)",
  "shopt -s expand_aliases\nalias hi='echo hi'\nhi",
  "alias hi='echo hi'\nhi",
  // Traps and signals.
  "trap 'echo bye' EXIT",
  "trap 'echo bye' EXIT; exit 4",
  "trap 'echo bye; exit 5' EXIT; exit 4",
  "trap 'echo bye' EXIT; exec true",
  "trap 'echo bye' EXIT; kill -TERM $$",
  "trap 'echo term' TERM; kill -TERM $$; echo $?",
  "trap '' TERM; kill -TERM $$; echo alive",
  "trap 'echo usr1' USR1; (kill -USR1 $$); sleep 0.05; echo after",
  "trap 'echo err $?' ERR; false; (exit 3); if false; then :; fi",
  "trap 'echo debug $BASH_COMMAND' DEBUG; true; echo x",
  "f() { trap 'echo return' RETURN; }; f",
  "kill -TERM $$",
  "kill -KILL $$",
  "kill -SEGV $$",
  "kill -HUP $$; echo after",
  "kill -INT $$; echo after",
  "kill -PIPE $$; echo after",
  "bash -c 'kill -TERM $$'; echo $?",
  "sh -c 'kill -9 $$'",
  "sleep 10 & kill $!; wait $!; echo $?",
  "sleep 10 & kill %1; wait; echo $?",
  "(sleep 0.05; kill -TERM $$) & wait; echo $?",
  "exec sleep 5 & kill -9 $!; wait $!; echo $?",
  "yes | head -n 1; echo ${PIPESTATUS[*]}",
  "cat /dev/zero | head -c 3 | od -c; echo ${PIPESTATUS[*]}",
  // The last command takes the shell's place, as bash -c does it.
  "/bin/sh -c 'echo $$'",
  "true; /bin/sh -c 'echo $$'",
  "cat /proc/self/stat | cut -d' ' -f4",
  "sh -c 'echo $PPID'",
  // Subshells, jobs, substitution, coprocesses.
  "echo $BASHPID; (echo $BASHPID) | cat; echo $(echo $BASHPID)",
  "x=$(echo a; exit 3); echo $x $?",
  "cat <(echo a) <(echo b)",
  "coproc cat; echo hi >&${COPROC[1]}; exec {COPROC[1]}>&-; cat <&${COPROC[0]}",
  "jobs; sleep 9 & jobs; kill $!; wait $!; echo $?",
  "mapfile -t a < <(printf '1\\n2\\n'); echo ${#a[@]}",
  "select x in a b; do echo $x; done",
  "history; fc -l",
  // eval, source, functions that outlive nothing.
  "eval 'echo $LINENO; if'",
  "eval 'exit 6'; echo after",
  ". /dev/stdin <<<'echo sourced $LINENO; return 4'; echo $?",
  "source /no/such/file; echo $?",
  "bash /dev/stdin a b <<<'echo $0 $*'",
  "bash -s a <<<'echo $1'",
  "cat <<'EOF' > /tmp/script; bash /tmp/script x; chmod +x /tmp/script; /tmp/script y\necho $0 $1 $#\nEOF",
  "python3 -c 'import os; print(os.getpid(), os.getppid(), os.environ.get(\"BASH_ENV\"))'",
  "python3 -c 'import os,sys; sys.exit(3)'",
  "python3 -c 'import os; os.kill(os.getpid(), 15)'",
  "python3 - <<'EOF'\nimport signal\nprint([s.name for s in signal.Signals if signal.getsignal(s) is signal.SIG_IGN])\nEOF",
  "grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status; cat /proc/$$/cmdline | tr '\\0' ' ' | cut -c 1-7",
  "tty; [ -t 0 ]; [ -t 1 ]; echo $?",
  "echo über; printf '%s' 'naïve' | wc -m; echo $'\\xff' | od -c",
  `echo ${"x".repeat(100_000)} | wc -c`,
];

const withStdin = [
  "cat",
  'read line; echo "[$line]"; cat',
  "exec </dev/null; cat; echo none",
  "cat >/dev/null; cat",
  "exec <&-; cat; echo $?",
  'while read -r a b; do echo "$b $a"; done',
  "ls -l /proc/self/fd/0 | grep -o 'pipe:'",
  "head -n 1; cat",
  "bash",
  "sh -s",
];

let sandbox: InitSandbox;

/** The same sandbox, environment, process id and descriptors, but a shell of its own that is told the command as usual. */
const reference = `exec python3 -c '
import os, signal
for ignored in signal.SIGPIPE, signal.SIGXFSZ:
    signal.signal(ignored, signal.SIG_DFL)
command = open("/home/agent/workspace/command").read()
env = {k: v for k, v in os.environ.items() if k not in ("SHLVL", "_", "OLDPWD", "PWD")}
os.execve("/bin/bash", ["bash", "-c", command], env)'`;

beforeAll(async () => {
  sandbox = await InitSandbox.ready(mountInitRoot("/scratch/bash"));
});

afterAll(async () => {
  await sandbox.close();
});

async function bothWays(command: string, stdin?: string) {
  writeFileSync(join(sandbox.workspace, "command"), command);
  const options = stdin === undefined ? {} : { stdin };
  const asBash = await sandbox.run(reference, options);
  const asOurs = await sandbox.run(command, options);
  return { asBash, asOurs };
}

const title = (command: string) => JSON.stringify(command).slice(0, 90);

for (const command of commands) {
  test(title(command), async () => {
    const { asBash, asOurs } = await bothWays(command);
    expect(asOurs).toEqual(asBash);
  });
}

for (const command of withStdin) {
  test(`${title(command)} with input`, async () => {
    const { asBash, asOurs } = await bothWays(command, "echo one two\necho three\n");
    expect(asOurs).toEqual(asBash);
  });
}

test("the comparison sees a difference", async () => {
  writeFileSync(join(sandbox.workspace, "command"), "set -x; echo hi");
  const asBash = await sandbox.run(reference);
  const asEval = await sandbox.run('eval "$(cat workspace/command)"');
  expect(asEval).not.toEqual(asBash);
});

test("the longest command that one argument can hold", async () => {
  const command = `: ${"x".repeat(128 * 1024 - 1 - 11)}; exit 5`.padEnd(128 * 1024 - 1, " ");
  expect(Buffer.byteLength(command)).toBe(128 * 1024 - 1);
  const { asBash, asOurs } = await bothWays(command);
  expect(asOurs.status).toBe(5);
  expect(asOurs).toEqual(asBash);
});

async function withInitFile(content: string, command: string, stdin?: string) {
  const directory = join(sandbox.workspace, ".trove");
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, "init.sh"), content);
  try {
    return await sandbox.run(command, stdin === undefined ? {} : { stdin });
  } finally {
    rmSync(directory, { recursive: true });
  }
}

const initFiles: [string, string, string, { stdout: string; status?: number; stderr?: string | RegExp }][] = [
  [
    "its exports and cd hold",
    "export A=1; B=2; cd workspace; f() { echo f; }",
    "echo $A $B $PWD; f",
    { stdout: "1 2 /home/agent/workspace\nf\n" },
  ],
  [
    "a failing command",
    "false; nosuchcommand; export A=1",
    "echo $A",
    { stdout: "1\n", stderr: "workspace/.trove/init.sh: line 1: nosuchcommand: command not found\n" },
  ],
  [
    "a syntax error",
    "export A=1\nif; then\n",
    "echo [$A]; exit 4",
    { stdout: "[1]\n", status: 4, stderr: /init\.sh: line 2: syntax error/ },
  ],
  [
    "exit",
    "export A=1; cd workspace; exit 3; export A=2",
    "echo $A $PWD $? $0 $-; exit 4",
    { stdout: "1 /home/agent/workspace 0 bash hBc\n", status: 4 },
  ],
  [
    "set -e and a failure",
    "set -euo pipefail; export A=1; false; export A=2",
    "echo $A $-; false; echo on; echo $nope",
    { stdout: "2 hBc\non\n\n" },
  ],
  [
    "an unset variable",
    "set -u; export A=1; echo $nope; export A=2",
    "echo $A $-",
    { stdout: "1 hBc\n", stderr: /nope: unbound variable/ },
  ],
  [
    "a required variable",
    "export A=1; : ${nope:?}; export A=2",
    "echo $A",
    { stdout: "1\n", stderr: /nope: parameter null or not set/ },
  ],
  ["return", "export A=1; return 5; export A=2", "echo $A $?", { stdout: "1 0\n" }],
  ["arguments", "set -- a b c", "echo $#", { stdout: "0\n" }],
  ["an EXIT trap", "trap 'echo bye' EXIT; export A=1", "echo $A", { stdout: "1\n" }],
  ["its output", "echo out; echo err >&2", "echo on", { stdout: "out\non\n", stderr: "err\n" }],
  ["a background job", "sleep 100 & export A=1", "echo $A", { stdout: "1\n" }],
  ["a long command after exit", "exit 1", `: ${"x".repeat(100_000)}; echo on`, { stdout: "on\n" }],
  [
    "a syntax error of the command's own",
    "export A=1",
    "echo $A\nif",
    { stdout: "1\n", status: 2, stderr: "bash: -c: line 3: syntax error: unexpected end of file\n" },
  ],
];

for (const [name, file, command, expected] of initFiles) {
  test(`init.sh: ${name}`, async () => {
    const result = await withInitFile(file, command);
    expect(result.stdout).toBe(expected.stdout);
    if (expected.stderr instanceof RegExp) expect(result.stderr).toMatch(expected.stderr);
    else if (expected.stderr !== undefined) expect(result.stderr).toBe(expected.stderr);
    if (expected.status !== undefined) expect(result.status).toBe(expected.status);
  });
}

test("init.sh does not read the command's input", async () => {
  expect((await withInitFile("cat", "cat", "for the command")).stdout).toBe("for the command");
});
