import { randomBytes } from "node:crypto";
import { networkInterfaces } from "node:os";
import { z } from "zod";
import type { Place } from "./appliance.ts";
import type { Group } from "./claim.ts";
import { claimsOf, NO_CAPABILITY, reportOf, type Look } from "./look.ts";
import common from "./probes/common.py" with { type: "text" };
import neighbourProbe from "./probes/neighbour.py" with { type: "text" };
import probe from "./probes/run.py" with { type: "text" };
import { createProofRuns } from "./runs.ts";

/** Every call of the list that a run must not make; each is made by its number. */
const FORBIDDEN = [
  ..."mount umount2 pivot_root kexec_load kexec_file_load init_module finit_module delete_module reboot".split(
    " ",
  ),
  ..."swapon swapoff unshare setns clone bpf perf_event_open ptrace process_vm_readv process_vm_writev".split(
    " ",
  ),
  ..."keyctl add_key request_key userfaultfd io_uring_setup io_uring_enter fsopen fsconfig fsmount".split(
    " ",
  ),
  ..."fspick open_tree move_mount mount_setattr name_to_handle_at open_by_handle_at acct quotactl".split(" "),
  ..."syslog settimeofday clock_settime clock_adjtime adjtimex iopl ioperm chroot vhangup sethostname".split(
    " ",
  ),
  ..."setdomainname lookup_dcookie kcmp modify_ldt".split(" "),
].map((name) => `call ${name}`);

const LOOKS: readonly Look[] = [
  {
    id: "run.user",
    claim: "A run is uid 10000 without any capability, and can't gain privileges.",
    attack: "read its uid, capabilities and no_new_privs",
    names: ["uid", "capabilities", "no_new_privs"],
    held: ["10000", NO_CAPABILITY, "1"],
    control: "read its own /proc/self/status",
    controls: ["uid"],
    worked: ["10000"],
  },
  {
    id: "run.read-only",
    claim: "A run writes to /work, /tmp, its home and /dev/shm, and nowhere else.",
    attack: "make a file",
    names: ["/", "/usr/bin", "/etc", "/proc/sys/kernel", "/sys", "/opt"].map((path) => `write ${path}`),
    held: ["EROFS", "EACCES", "EPERM", "ENOENT"],
    control: "make a file where it may",
    controls: ["/work", "/tmp", "/home/agent", "/dev/shm"].map((path) => `write ${path}`),
  },
  {
    id: "run.host-path",
    claim: "A run sees no file of the host, by its path or through a link.",
    attack: "open a file that is on the host",
    names: ["host path", "host path by a link"],
    held: ["ENOENT"],
    control: "open one of the image, and the namespace's",
    controls: ["own path", "forked file"],
  },
  {
    id: "run.devices",
    claim: "A run makes and reaches no device, and nothing of a kernel's in /proc and /sys.",
    attack: "make a device, open the kernel's files for reading and writing",
    names: [
      "mknod",
      ...[
        "/proc/kcore",
        "/proc/keys",
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/sys/firmware/efi",
        "/sys/kernel/uevent_helper",
        "/dev/mem",
        "/dev/kmsg",
        "/dev/kvm",
        "/dev/sda",
        "/dev/fuse",
      ].map((path) => `open ${path}`),
    ],
    held: ["EPERM", "EACCES", "ENOENT", "EROFS"],
    control: "make a plain file in the same place",
    controls: ["write /work"],
  },
  {
    id: "run.limits",
    claim: "A run has 1024 files and 512 processes at most, and can't have more.",
    attack: "read its limits and raise one",
    names: ["NOFILE", "NPROC", "raise NOFILE"],
    held: ["1024", "512", "EPERM", "ValueError"],
    control: "read them",
    controls: ["NOFILE"],
    worked: ["1024"],
  },
  {
    id: "run.namespaces",
    claim: "A run has processes, a host name and a network of its own.",
    attack: "look at who is process 1, at the host's name, at others' processes",
    names: ["first process", "hostname", "proc of others"],
    held: ["/sbin/cofferdam-run-init", "sandbox", "ENOENT"],
    control: "see its own init",
    controls: ["first process"],
    worked: ["/sbin/cofferdam-run-init"],
  },
  {
    id: "run.seccomp",
    claim: "The seccomp profile is in force: each forbidden call is refused, whatever its arguments.",
    attack: "make each by its number",
    names: FORBIDDEN,
    held: ["EPERM"],
    control: "make allowed ones the same way",
    controls: ["call getpid", "call uname"],
  },
  {
    id: "run.credentials",
    claim:
      "A run's environment holds one credential, its token for the gateway, and nothing that it reads holds the real one.",
    attack: "look for what looks like a credential, and for the secret in all processes that it sees",
    names: ["credentials", "token", "secret in /proc"],
    held: ["1", "only", "ENOENT"],
    control: "find its token, and a text of its own in its memory, the same way",
    controls: ["token in /proc", "own text in memory"],
  },
  {
    id: "run.token",
    claim: "The gateway takes a run's token from that run alone.",
    attack: "use a wrong token, and one stolen from a neighbour",
    names: ["wrong token", "neighbour's token"],
    held: ["401"],
    control: "its own is known: it is told that its model is not allowed",
    controls: ["right token"],
    worked: ["400"],
  },
  {
    id: "run.neighbour",
    claim: "A run reaches neither a neighbour nor a neighbour's gateway.",
    attack: "connect to the neighbour, its gateway and its gateway's proxy",
    names: ["reach neighbour", "reach neighbour's gateway", "reach neighbour's proxy"],
    held: ["unreachable"],
    control: "connect to its own gateway; the neighbour's listener answers the neighbour",
    controls: ["reach own gateway", "reach own proxy", "own listener"],
  },
  {
    id: "run.host",
    claim: "A run reaches nothing on the host but the gateway's ports.",
    attack: "connect to a listener on 0.0.0.0, by each of the host's addresses",
    names: ["reach host by gateway's address", "reach host by loopback", "reach host by its own address"],
    held: ["unreachable"],
    control: "the listener answers the host",
    controls: ["host's listener"],
  },
  {
    id: "run.ipv6",
    claim: "A run has no IPv6.",
    attack: "connect to addresses of the internet, the link and a cloud's metadata",
    names: ["2001:4860:4860::8888", "fe80::1%eth0", "fd00:ec2::254"].map((address) => `reach ${address}`),
    held: ["unreachable"],
    control: "connect to its gateway by IPv4",
    controls: ["reach own gateway"],
  },
  {
    id: "run.raw",
    claim: "A run makes no packets of its own.",
    attack: "open raw sockets",
    names: ["raw packets", "raw IP"],
    held: ["EPERM", "EACCES"],
    control: "open a stream socket",
    controls: ["stream socket"],
  },
];

const credential = z.object({ credential_id: z.string() });

/** Two runs beside each other, as agents run: one attacks, the other is its neighbour. */
export function runGroup(place: Place): Group {
  const { appliance, workspace, tag } = place;
  const start = createProofRuns(place);
  const credentials = `/v1/workspaces/${workspace}/credentials`;

  return {
    name: "run",
    slow: false,
    async open() {
      // Never dialled: the gateway refuses all that the probe asks for before that.
      const secret = randomBytes(24).toString("hex");
      const body = { name: tag, kind: "anthropic", secret, base_url: "https://8.8.8.8" };
      const { credential_id: id } = await appliance.ask(credential, credentials, {
        method: "POST",
        json: body,
      });
      const listener = Bun.listen({ hostname: "0.0.0.0", port: 0, socket: { data() {} } });
      const llm = { credential: tag, models: ["granted"] };
      const script = (source: string, argv: readonly string[]) => ({
        command: `exec python3 - ${argv.map((word) => `'${word}'`).join(" ")}`,
        stdin: `${common}\n${source}`,
        llm,
        limits: { timeout_s: 120 },
      });
      const headers = { "x-workspace": workspace, "x-namespace": tag };
      const command = `touch workspace/${tag}`;
      await appliance.ask(z.unknown(), "/admin/exec", { method: "POST", headers, json: { command } });
      const neighbour = await start(`${tag}-neighbour`, script(neighbourProbe, []));
      const end = async () => {
        listener.stop(true);
        await neighbour.cancel();
        await appliance.ask(z.unknown(), `${credentials}/${id}`, { method: "DELETE" });
      };
      try {
        const theirs = reportOf(await neighbour.line("PROBE "), "");
        const [theirGateway = "", theirPort = "0"] = theirs["gateway"]?.split(":") ?? [];
        const half = secret.length / 2;
        const targets = {
          stolen: theirs["token"] ?? "",
          neighbour: `tcp/${addressOfRun(theirGateway)}/7777`,
          "neighbour's gateway": `tcp/${theirGateway}/${theirPort}`,
          "neighbour's proxy": `tcp/${theirGateway}/${Number(theirPort) + 1}`,
          "host by its own address": `tcp/${ownAddress()}/${listener.port}`,
          "host by loopback": `tcp/127.0.0.1/${listener.port}`,
        };
        const argv = [
          tag,
          tag,
          appliance.instance.data,
          // Halves the other way round, so that the probe's own arguments do not hold it.
          secret.slice(half) + secret.slice(0, half),
          `${listener.port}`,
          ...Object.entries(targets).map(([name, target]) => `${name}=${target}`),
        ];
        const attacker = await start(tag, script(probe, argv));
        const report = reportOf(await attacker.output(), "");
        const reached = await Bun.connect({
          hostname: "127.0.0.1",
          port: listener.port,
          socket: { data() {} },
        });
        reached.end();
        const both = {
          ...report,
          "own listener": theirs["own listener"] ?? "not tried",
          "host's listener": "done",
        };
        return { claims: claimsOf(LOOKS, both), close: end };
      } catch (error) {
        await end();
        throw error;
      }
    },
  };
}

/** The sandbox's end of a network is the address after the host's. */
function addressOfRun(gateway: string): string {
  return gateway.replace(/\d+$/, (last) => `${Number(last) + 1}`);
}

/** One that is not the runs' network's and not loopback's, where the host has one. */
function ownAddress(): string {
  const all = Object.values(networkInterfaces()).flatMap((of) => of ?? []);
  return all.find(({ family, internal }) => family === "IPv4" && !internal)?.address ?? "127.0.0.1";
}
