import { dirname } from "node:path";
import type { Instance } from "../instance/instance.ts";
import { Capability } from "./capabilities.ts";
import type { LandlockRule } from "./landlock.ts";
import { loadedLibraryDirectories, type RootView } from "./rootview.ts";
import { SocketFamily } from "./seccomp.ts";
import { libraryDirectory, self } from "./self.ts";
import type { RoleUserName } from "./users.ts";

/** The roles that give up root. sandboxd can't: what it does is root's work. */
export type ConfinedRole = "api" | "gateway";

/** All that a role may be and see. */
export interface Confinement {
  readonly user: RoleUserName;
  readonly capabilities: readonly Capability[];
  readonly socketFamilies: readonly SocketFamily[];
  readonly view: RootView;
  /** The programs whose execution Landlock lets pass, for the one execve that confining takes. */
  readonly programs: readonly string[];
  /** What must not exist for it. */
  readonly absent: readonly string[];
}

const LOADER = "/lib64/ld-linux-x86-64.so.2";

/** Names and certificates for whom a role talks to, and the clock's zone; not the rest of /etc. */
const NETWORK_FILES = [
  "/etc/resolv.conf",
  "/etc/hosts",
  "/etc/nsswitch.conf",
  "/etc/host.conf",
  "/etc/gai.conf",
  "/etc/services",
  "/etc/ssl/certs",
  "/usr/share/ca-certificates",
];

interface Surroundings {
  /** systemd's directory of them, where the master key comes from there. */
  readonly credentials?: string | undefined;
  readonly notifySocket?: string | undefined;
}

export function confinementOf(
  role: ConfinedRole,
  instance: Instance,
  around: Surroundings = {},
): Confinement {
  const { executable, clone } = self();
  const programs = [executable, LOADER];
  const of = { api: apiConfinement, gateway: gatewayConfinement }[role](instance, around);
  const notify = around.notifySocket?.startsWith("/") === true ? [around.notifySocket] : [];
  const view: RootView = {
    own: of.own,
    code: [...loadedLibraryDirectories(), ...programs, ...(clone === null ? [] : [clone])],
    devices: ["/dev/null", "/dev/urandom"],
    read: [...of.read, ...notify, "/etc/passwd", "/etc/group", "/etc/localtime", `${instance.data}/inst`],
  };
  const visible = [...view.own, ...view.code, ...view.read];
  const absent = [...of.absent, instance.masterKeyFile, instance.sandboxd.dir, ...ELSEWHERE].filter(
    // A clone or a data directory may lie in /home.
    (path) => !visible.some((shown) => shown.startsWith(`${path}/`)),
  );
  return { ...of, view, programs, absent };
}

/** Samples of a host's files: with one of them in sight, the view is not what was meant. */
const ELSEWHERE = ["/root", "/home", "/tmp", "/sys", "/etc/shadow", "/bin/sh", "/var/log"];

function apiConfinement(
  { api, gateway, keyringFile, sockets, publishedConfig }: Instance,
  { credentials }: Surroundings,
) {
  return {
    user: "cofferdam",
    // Tenants' files are uid 10000's: it reads and writes them, and gives new ones to that uid.
    // And 443 is a port of root's.
    capabilities: [Capability.chown, Capability.dacOverride, Capability.fowner, Capability.netBindService],
    socketFamilies: [SocketFamily.unix, SocketFamily.inet, SocketFamily.inet6],
    own: [api.dir, dirname(sockets.admin)],
    read: [
      ...NETWORK_FILES,
      dirname(publishedConfig),
      keyringFile,
      `${libraryDirectory()}/manifest.json`,
      // To connect to.
      dirname(sockets.sandboxd),
      dirname(sockets.gateway),
      ...(credentials === undefined ? [] : [credentials]),
    ],
    absent: [gateway.dir],
  } as const;
}

function gatewayConfinement({ api, gateway, sockets, gatewayConfig, publishedConfig }: Instance) {
  return {
    user: "cofferdam-gw",
    capabilities: [],
    socketFamilies: [SocketFamily.unix, SocketFamily.inet, SocketFamily.inet6],
    own: [gateway.dir, dirname(sockets.gateway)],
    read: [...NETWORK_FILES, dirname(gatewayConfig)],
    absent: [
      api.dir,
      gateway.keyFile,
      dirname(publishedConfig),
      dirname(sockets.admin),
      dirname(sockets.sandboxd),
    ],
  } as const;
}

/** Landlock says it once more, and also what the mounts can't: nothing but itself is executed. */
export function landlockRules(
  { view, programs }: Confinement,
  exists: (path: string) => boolean,
): LandlockRule[] {
  const rules = (paths: readonly string[], access: LandlockRule["access"]) =>
    paths.map((path) => ({ path, access }));
  return [
    ...rules(view.own, "own"),
    ...rules(["/proc", ...view.code, ...view.read.filter(exists)], "read"),
    ...rules(view.devices, "device"),
    ...rules(programs, "execute"),
  ];
}
