import { lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import type { Instance } from "../instance/instance.ts";
import type { Check } from "../protocol/sandboxd.ts";
import { capabilityMask } from "./capabilities.ts";
import { confinementOf, type Confinement, type ConfinedRole } from "./confinement.ts";
import { landlockAbi } from "./landlock.ts";
import { roleUser } from "./users.ts";

/** Throws, with what is wrong, unless the kernel says that this process is confined as it should be. */
export function verifyConfinement(role: ConfinedRole, confinement: Confinement): void {
  const wrong = wrongConfinement(confinement);
  if (wrong.length > 0) throw new Error(`${role} is not what it should be: ${wrong.join("; ")}`);
}

/** For `doctor`, at any time later. */
export function confinementCheck(role: ConfinedRole, instance: Instance): Check {
  const confinement = confinementOf(role, instance);
  const status = readFileSync("/proc/self/status", "utf8");
  const unsealed = /^Seccomp:\s*2$/m.test(status) ? [] : ["no seccomp filter is in force"];
  const wrong = [...wrongConfinement(confinement), ...unsealed];
  const name = `${role} confined`;
  if (wrong.length > 0) {
    return {
      name,
      status: "fail",
      detail: wrong.join("; "),
      fix: `Restart it; if that does not help, report it.`,
    };
  }
  const detail = `own user, mounts, seccomp filter, Landlock ABI ${landlockAbi()}`;
  return { name, status: "ok", detail, fix: null };
}

function wrongConfinement(confinement: Confinement): string[] {
  return [
    ...wrongIdentity(readFileSync("/proc/self/status", "utf8"), confinement),
    ...wrongMounts(readFileSync("/proc/self/mountinfo", "utf8"), confinement.view.own),
    ...unrestricted(),
    ...foreignDescriptors(),
    ...confinement.absent.filter(isThere).map((path) => `${path} is in sight`),
  ];
}

export function wrongIdentity(
  status: string,
  confinement: Pick<Confinement, "user" | "capabilities">,
  user = roleUser(confinement.user),
): string[] {
  const fields = new Map(status.split("\n").map((line) => line.split(/:\s*/, 2) as [string, string]));
  const mask = capabilityMask(confinement.capabilities).toString(16).padStart(16, "0");
  const four = (id: number) => [id, id, id, id].join("\t");
  const expected: Record<string, string> = {
    Uid: four(user.uid),
    Gid: four(user.gid),
    Groups: "",
    CapInh: mask,
    CapPrm: mask,
    CapEff: mask,
    CapBnd: mask,
    CapAmb: mask,
    NoNewPrivs: "1",
  };
  return Object.entries(expected)
    .map(([name, value]) => ({ name, value, found: fields.get(name)?.trim() }))
    .filter(({ value, found }) => found !== value)
    .map(({ name, value, found }) => `${name} is ${JSON.stringify(found)}, not ${JSON.stringify(value)}`);
}

/** Every mount is read-only but the role's own, and those carry neither programs of other users nor devices. */
export function wrongMounts(mountinfo: string, own: readonly string[]): string[] {
  return mountinfo
    .split("\n")
    .filter((line) => line !== "")
    .flatMap((line) => {
      const fields = line.split(" ");
      const path = (fields[4] ?? "").replaceAll(/\\([0-7]{3})/g, (_, octal: string) =>
        String.fromCharCode(Number.parseInt(octal, 8)),
      );
      const options = new Set((fields[5] ?? "").split(","));
      const needed = own.some((dir) => path === dir || path.startsWith(`${dir}/`))
        ? ["nosuid", "nodev"]
        : ["ro", "nosuid"];
      return needed
        .filter((option) => !options.has(option))
        .map((option) => `the mount ${path} is not ${option}`);
    });
}

/** A file that was opened before the view of them was cut can be changed by its descriptor, whatever the mounts say. */
function foreignDescriptors(): string[] {
  const mounts = new Set(
    readFileSync("/proc/self/mountinfo", "utf8")
      .matchAll(/^(\d+) /gm)
      .map((match) => match[1]),
  );
  return readdirSync("/proc/self/fd").flatMap((fd) => {
    const info = readIfOpen(`/proc/self/fdinfo/${fd}`);
    const target = readIfOpen(`/proc/self/fd/${fd}`, readlinkSync);
    // Pipes, sockets and the like are on no mount: "pipe:[1]", "anon_inode:[eventpoll]", "/memfd:name (deleted)".
    if (info === null || target === null || !target.startsWith("/") || target.startsWith("/memfd:"))
      return [];
    const mount = /^mnt_id:\s*(\d+)$/m.exec(info)?.[1];
    return mounts.has(mount) ? [] : [`descriptor ${fd} is the host's ${target}`];
  });
}

/** null for the descriptor that listed the directory, which is closed by now. */
function readIfOpen(path: string, read = (path: string) => readFileSync(path, "utf8")): string | null {
  try {
    return read(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

/** Landlock has no place in /proc to read from, so it is tried: it grants no listing of the root directory. */
function unrestricted(): string[] {
  try {
    readdirSync("/");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EACCES") return [];
    throw error;
  }
  return ["Landlock is not in force"];
}

function isThere(path: string): boolean {
  try {
    lstatSync(path);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return false;
    throw error;
  }
}
