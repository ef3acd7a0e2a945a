import addon from "@libsql/linux-x64-gnu/index.node" with { type: "file" };
import { readFileSync, writeSync } from "node:fs";
import { closeFd } from "../src/kernel/openat2.ts";
import { syscall } from "../src/kernel/libc.ts";

const MEMFD_CREATE = 319;
const MFD_CLOEXEC = 1;

/**
 * libSQL's native part, from inside the executable (build/binary.ts puts this in place of libsql's own search of
 * node_modules). It is loaded from memory: Bun's own way would leave a copy in a temporary directory and later trust
 * whatever lies there.
 */
export function loadAddon(): unknown {
  const name = Buffer.from("libsql\0");
  const fd = syscall("memfd_create", MEMFD_CREATE, name, MFD_CLOEXEC);
  try {
    const bytes = readFileSync(addon);
    for (let at = 0; at < bytes.length;) at += writeSync(fd, bytes, at);
    const module = { exports: {} as unknown };
    process.dlopen(module, `/proc/self/fd/${fd}`);
    return module.exports;
  } finally {
    closeFd(fd);
  }
}
