import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { AppError } from "../errors.ts";
import { placeRestored } from "./restored.ts";
import { openInstance, type Instance } from "./instance.ts";
import { TEMPORARY, writeOnce } from "../kernel/durable.ts";
import { roleUser, type User } from "../kernel/users.ts";
import { ensureState } from "./state.ts";
import { checkMasterKey, keyringText, newSecret } from "./keyring.ts";

const ROOT: User = { uid: 0, gid: 0 };

/** One that is not kept in the data directory; or that it is not for this process to look at; null: as usual. */
export type GivenKey = Uint8Array | "elsewhere" | null;

/**
 * Makes what is missing of an instance, as root, and returns it: safe to call at every start, and after a crash in an
 * earlier call. It never replaces a key and never takes over a directory that holds something else.
 */
export function createInstance(data: string, masterKey: GivenKey = null): Instance {
  const api = roleUser("cofferdam");
  const gateway = roleUser("cofferdam-gw");
  mkdirSync(resolve(data), { recursive: true, mode: 0o755 });
  const dir = realpathSync(resolve(data));
  refuseForeign(dir);
  refuseMovable(dir);
  // Others may pass through, since each role's directory below is closed to them, but not look around.
  chownSync(dir, 0, 0);
  chmodSync(dir, 0o711);
  writeOnce(join(dir, "inst"), freeTag(), { mode: 0o644 });
  // What follows would otherwise be made anew beside what is about to come into its place.
  placeRestored(dir);
  const instance = openInstance(dir);
  makeKeys(instance, masterKey, api.gid);
  ensureDirectory(instance.api.dir, api, 0o700);
  ensureState(instance);
  ensureDirectory(instance.gateway.dir, gateway, 0o700);
  return instance;
}

/** The master key and what it wraps. Only a new instance gets new ones. */
function makeKeys(instance: Instance, given: GivenKey, gid: number): void {
  const { masterKeyFile, keyringFile, api } = instance;
  // A database there does not show while it is locked. It is made after the keyring.
  const hasState = existsSync(api.state);
  const isOld =
    hasState || [keyringFile, join(api.dir, basename(api.database))].some((path) => existsSync(path));
  if (given === "elsewhere" && existsSync(keyringFile)) return;
  const kept = given instanceof Uint8Array;
  if (!kept && isOld && !existsSync(masterKeyFile)) {
    throw new AppError(
      "conflict",
      `${masterKeyFile} is missing but there is data that needs it; restore the key from a backup.`,
    );
  }
  if (hasState && !existsSync(keyringFile)) {
    throw new AppError(
      "conflict",
      `${keyringFile} is missing but there is data that needs it; restore it from a backup, with the master key of then.`,
    );
  }
  if (!kept) writeOnce(masterKeyFile, newSecret(), { mode: 0o600 });
  if (existsSync(keyringFile)) return;
  const masterKey = checkMasterKey(kept ? given : readFileSync(masterKeyFile));
  // An instance from before there was a keyring has derived all from its master key, which stays what that is for.
  const secret = isOld ? masterKey : newSecret();
  writeOnce(keyringFile, keyringText(secret, [masterKey]), { mode: 0o640, gid });
}

/** The directories for sockets and sandboxes; /run is empty after every boot. As root, before any role starts. */
export function ensureRunDirectories(instance: Instance): void {
  const api = roleUser("cofferdam");
  const gateway = roleUser("cofferdam-gw");
  const { sockets } = instance;
  ensureDirectory(dirname(sockets.dir), ROOT, 0o755);
  ensureDirectory(sockets.dir, ROOT, 0o755);
  // Anyone in the group may reach the admin socket, which has a mode of its own.
  ensureDirectory(dirname(sockets.admin), api, 0o755);
  ensureDirectory(dirname(sockets.sandboxd), { uid: 0, gid: api.gid }, 0o750);
  ensureDirectory(dirname(sockets.gateway), { uid: gateway.uid, gid: api.gid }, 0o750);
  ensureDirectory(dirname(instance.publishedConfig), { uid: 0, gid: api.gid }, 0o750);
  ensureDirectory(dirname(instance.gatewayConfig), { uid: 0, gid: gateway.gid }, 0o750);
  ensureDirectory(instance.sandboxd.dir, ROOT, 0o700);
}

/** Puts a copy of the configuration where the roles see it; null = none, all defaults. */
export function publishConfig(instance: Instance, file: string | null): void {
  const content = file === null ? new Uint8Array() : readFileSync(file);
  publish(instance.publishedConfig, content);
  publish(instance.gatewayConfig, content, "cofferdam-gw");
}

/** For one role's eyes. A new file each time: it reads the old or the new, never half of one. */
export function publish(
  path: string,
  content: string | Uint8Array,
  role: "cofferdam" | "cofferdam-gw" = "cofferdam",
): void {
  const { gid } = roleUser(role);
  // Several roles are prepared at once.
  const temporary = `${path}.${process.pid}`;
  try {
    rmSync(temporary, { force: true });
    writeFileSync(temporary, content, { flag: "wx", mode: 0o600 });
    chownSync(temporary, 0, gid);
    chmodSync(temporary, 0o640);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

/** Only for directories whose parent is root's, so that nobody can put a link in their place. */
function ensureDirectory(path: string, owner: User, mode: number): void {
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
  const stat = lstatSync(path);
  // New, or left so by a crash right here.
  if (stat.isDirectory() && stat.uid === 0 && readdirSync(path).length === 0) {
    chownSync(path, owner.uid, owner.gid);
    chmodSync(path, mode);
    return;
  }
  if (
    !stat.isDirectory() ||
    stat.uid !== owner.uid ||
    stat.gid !== owner.gid ||
    (stat.mode & 0o777) !== mode
  ) {
    throw new AppError(
      "conflict",
      `${path} must be a directory with owner ${owner.uid}:${owner.gid} and mode ${mode.toString(8)}; put it right with: chown ${owner.uid}:${owner.gid} ${path} && chmod ${mode.toString(8)} ${path}`,
    );
  }
}

/** An empty directory, or one that this appliance made; lost+found and a configuration put there beforehand are fine. */
function refuseForeign(dir: string): void {
  const entries = readdirSync(dir);
  const ours = new Set(["inst", "master.key", "keyring", "config.toml", "lost+found"]);
  const foreign = entries.find((name) => !ours.has(name) && !name.startsWith(TEMPORARY));
  if (!entries.includes("inst") && foreign !== undefined) {
    throw new AppError(
      "conflict",
      `${dir} is not empty (it holds ${foreign}) and holds no instance; give an empty directory.`,
    );
  }
}

/** Whoever may write to a directory above could put another tree in place of the data, and root would use it. */
function refuseMovable(dir: string): void {
  for (let path = dirname(dir); ; path = dirname(path)) {
    const stat = statSync(path);
    const othersWrite = (stat.mode & 0o022) !== 0 && (stat.mode & 0o1000) === 0;
    if (stat.uid !== 0 || othersWrite) {
      throw new AppError(
        "conflict",
        `${path}, which leads to the data, must be root's and not writable by others; use another --data or: chown root ${path} && chmod go-w ${path}`,
      );
    }
    if (path === "/") return;
  }
}

/** A tag that no instance on this host uses at the moment. */
function freeTag(): string {
  for (;;) {
    const tag = Buffer.from(crypto.getRandomValues(new Uint8Array(2))).toString("hex");
    if (!existsSync(`/run/cofferdam/${tag}`)) return tag;
  }
}
