import { operatorExecResult } from "../protocol/operator-exec.ts";
import type { Place } from "./appliance.ts";
import type { Group } from "./claim.ts";
import { claimsOf, isTenant, reportOf, withSeen, type Look, type Report } from "./look.ts";
import common from "./probes/common.py" with { type: "text" };
import probe from "./probes/exec.py" with { type: "text" };

const REFUSED = ["EPERM", "EACCES", "ENOSYS"];

const LOOKS: readonly Look[] = [
  { id: "exec.user", claim: "A command is uid 10000 and can't gain privileges.", ...isTenant },
  {
    id: "exec.network",
    claim: "A command has no network: no socket but a unix one.",
    attack: "open sockets",
    names: ["socket AF_INET", "socket AF_INET6", "socket AF_NETLINK", "socket AF_PACKET"],
    held: ["EACCES"],
    control: "open a unix socket",
    controls: ["socket AF_UNIX"],
  },
  {
    id: "exec.read-only",
    claim: "A command writes to its workspace and /tmp, and nowhere else.",
    attack: "make a file",
    names: ["write /", "write /usr/bin", "write /etc", "write /home/agent"],
    held: ["EROFS", "EACCES", "EPERM"],
    control: "make a file where it may",
    controls: ["write workspace", "write /tmp"],
  },
  {
    id: "exec.devices",
    claim: "A command makes and reaches no device, and nothing of the kernel's in /proc and /sys.",
    attack: "make a device, open what is the kernel's for writing",
    names: [
      "mknod",
      "open /proc/kcore",
      "open /proc/sysrq-trigger",
      "open /proc/sys/kernel/core_pattern",
      "open /sys/kernel/uevent_helper",
      "open /dev/mem",
      "open /dev/kmsg",
      "open /dev/sda",
    ],
    held: ["EPERM", "EACCES", "ENOENT", "EROFS"],
    control: "make a plain file in the same place",
    controls: ["write workspace"],
  },
  {
    id: "exec.calls",
    claim:
      "A command can't mount, enter or make namespaces, trace, load programs, or submit calls another way.",
    attack: "make each forbidden system call by its number",
    names: [
      "call mount",
      "call unshare user",
      "call clone user",
      "call setns",
      "call pivot_root",
      "call chroot",
      "call fsopen",
      "call open_tree",
      "call move_mount",
      "call mount_setattr",
      "call bpf",
      "call io_uring_setup",
      "call userfaultfd",
      "call keyctl",
      "call perf_event_open",
      "call process_vm_readv",
    ],
    held: REFUSED,
    control: "make an allowed one the same way",
    controls: ["call getpid"],
  },
  {
    id: "exec.neighbour",
    claim: "A namespace sees nothing of another.",
    attack: "look for a neighbour's file everywhere",
    names: ["neighbour's file"],
    held: ["ENOENT"],
    control: "look for its own the same way",
    controls: ["own file"],
  },
  {
    id: "exec.nothing-left",
    claim: "Of a command nothing is left for the next but files in the workspace.",
    attack:
      "leave files, shared memory and a daemon with an abstract socket, and look for them in the next command",
    names: ["left in /tmp", "left in /dev/shm", "left daemon"],
    held: ["ENOENT", "ECONNREFUSED"],
    control: "look for a file left in the workspace; the daemon listened while its command ran",
    controls: ["left in workspace", "daemon"],
  },
  {
    id: "exec.environment",
    claim: "A command's environment holds nothing of the host's.",
    attack: "list its variables",
    names: ["other variables"],
    held: ["none"],
    control: "read one of ours",
    controls: ["HOME"],
    worked: ["/tmp/home"],
  },
];

/** Commands in a namespace, as an agent runs them. */
export function execGroup({ appliance, workspace, tag }: Place): Group {
  const [own, neighbour] = [`${tag}-own`, `${tag}-neighbour`];

  async function run(namespace: string, command: string, stdin?: string) {
    const result = await appliance.ask(operatorExecResult, "/admin/exec", {
      method: "POST",
      headers: { "x-workspace": workspace, "x-namespace": namespace },
      json: { command, ...(stdin === undefined ? {} : { stdin_base64: Buffer.from(stdin).toBase64() }) },
    });
    const text = (base64: string) => Buffer.from(base64, "base64").toString();
    return { stdout: text(result.stdout_base64), stderr: text(result.stderr_base64) };
  }

  async function probed(part: string): Promise<Report> {
    const names = [`${tag}-theirs`, `${tag}-mine`, `${tag}-left`, part];
    const { stdout, stderr } = await run(own, `python3 - ${names.join(" ")}`, `${common}\n${probe}`);
    return reportOf(`${stdout}\n${stderr}`);
  }

  return {
    name: "exec",
    slow: false,
    async open() {
      await run(neighbour, `touch workspace/${tag}-theirs`);
      await run(own, `touch workspace/${tag}-mine`);
      const [left, seen] = [await probed("leave"), await probed("look")];
      return {
        claims: claimsOf(LOOKS, withSeen(seen, { daemon: left.seen["daemon"] ?? "not tried" })),
        close: async () => {},
      };
    },
  };
}
