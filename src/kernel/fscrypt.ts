import { hkdfSync } from "node:crypto";
import { KernelError, NR, syscall } from "./libc.ts";

/**
 * File encryption by the file system, fscrypt v2: https://docs.kernel.org/filesystems/fscrypt.html. A policy on an empty
 * directory names a key; all that is made below is encrypted with keys derived from it, contents by AES-256-XTS and names
 * by AES-256-CTS. The key is the file system's from `addKey` to `removeKey`, for every process alike.
 */

/** Bytes of a master key; the kernel derives all others from it by HKDF-SHA512. */
export const KEY_BYTES = 64;

/** Which key a policy means: the kernel's own hash of it, 32 hexadecimal digits, and no secret. */
export type KeyIdentifier = string;

// struct fscrypt_key_specifier: type 4, reserved 4, identifier 16 of 32. Numbers by <linux/fscrypt.h>, for x86-64.
const ADD_KEY = 0xc0506617;
const REMOVE_KEY_ALL_USERS = 0xc0406619;
const KEY_STATUS = 0xc080661a;
const SET_POLICY = 0x800c6613;
const GET_POLICY_EX = 0xc0096616;

const SPECIFIER_BY_IDENTIFIER = 2;
const IDENTIFIER_AT = 8;
const IDENTIFIER_BYTES = 16;
const POLICY_V2 = 2;
const AES_256_XTS = 1;
const AES_256_CTS = 4;
/** Names are padded to multiples of 32 bytes, so that lengths tell less. */
const PAD_32 = 3;
const POLICY_BYTES = 24;
const POLICY_IDENTIFIER_AT = 8;

const KEY_STATES = new Map([
  [1, "absent"],
  [2, "present"],
  [3, "partly removed"],
] as const);
/** "partly removed": the key is wiped, but files that were open then are readable still. */
export type KeyState = "absent" | "present" | "partly removed";

const FILES_BUSY = 1;
/** What a file system says that can't: no such call, none without the feature, or a kernel without it. (EOPNOTSUPP is ENOTSUP.) */
const UNABLE: ReadonlySet<string> = new Set(["ENOTTY", "ENOTSUP", "ENOSYS"]);

/** "unable": this file system does not encrypt; "none": it can, this file is not; else whose key it is under. */
export type Policy =
  | { readonly kind: "unable" }
  | { readonly kind: "none" }
  | { readonly kind: "key"; readonly identifier: KeyIdentifier }
  /** Another version, other ciphers: none of ours. */
  | { readonly kind: "foreign" };

/** Of an open file or directory, which may not be O_PATH. */
export function policyOf(fd: number): Policy {
  const arg = Buffer.alloc(8 + POLICY_BYTES);
  arg.writeBigUInt64LE(BigInt(POLICY_BYTES));
  try {
    syscall("ioctl get encryption policy", NR.ioctl, fd, GET_POLICY_EX, arg);
  } catch (error) {
    if (!(error instanceof KernelError)) throw error;
    if (error.code === "ENODATA") return { kind: "none" };
    if (UNABLE.has(error.code)) return { kind: "unable" };
    // Longer than any we know.
    if (error.code === "EOVERFLOW") return { kind: "foreign" };
    throw error;
  }
  const policy = arg.subarray(8);
  const [version, contents, names] = policy;
  if (version !== POLICY_V2 || contents !== AES_256_XTS || names !== AES_256_CTS) return { kind: "foreign" };
  return { kind: "key", identifier: policy.toString("hex", POLICY_IDENTIFIER_AT) };
}

/** Puts an empty directory, and all that is made in it from now on, under a key that was added. ENOTEMPTY otherwise. */
export function setPolicy(directoryFd: number, identifier: KeyIdentifier): void {
  const policy = Buffer.alloc(POLICY_BYTES);
  policy.set([POLICY_V2, AES_256_XTS, AES_256_CTS, PAD_32]);
  policy.write(identifier, POLICY_IDENTIFIER_AT, "hex");
  syscall("ioctl set encryption policy", NR.ioctl, directoryFd, SET_POLICY, policy);
}

/** What the kernel will call a key, by its HKDF with the context of identifiers; without giving the key to anybody. */
export function identifierOf(key: Uint8Array): KeyIdentifier {
  checkKey(key);
  return Buffer.from(hkdfSync("sha512", key, "", "fscrypt\0\x01", IDENTIFIER_BYTES)).toString("hex");
}

function checkKey(key: Uint8Array): void {
  if (key.length !== KEY_BYTES) throw new Error(`a key has ${KEY_BYTES} bytes, not ${key.length}`);
}

/** Gives the file system of `fd` a key, until it is removed or unmounted; once more is a success. */
export function addKey(fd: number, key: Uint8Array): KeyIdentifier {
  checkKey(key);
  const arg = Buffer.alloc(80 + KEY_BYTES);
  try {
    arg.writeUInt32LE(SPECIFIER_BY_IDENTIFIER);
    arg.writeUInt32LE(KEY_BYTES, 40);
    arg.set(key, 80);
    syscall("ioctl add encryption key", NR.ioctl, fd, ADD_KEY, arg);
    return arg.toString("hex", IDENTIFIER_AT, IDENTIFIER_AT + IDENTIFIER_BYTES);
  } finally {
    arg.fill(0);
  }
}

/**
 * Takes a key away again, whoever added it, and drops what the page cache holds in the clear; absence is a success.
 * "busy": the key is gone, but what is still open (`fd` itself, if it lies below) keeps its own; a later call tells of those. It syncs the whole
 * file system first, so it may take seconds. As root.
 */
export function removeKey(fd: number, identifier: KeyIdentifier): "gone" | "busy" {
  const arg = specifier(identifier, 64);
  try {
    syscall("ioctl remove encryption key", NR.ioctl, fd, REMOVE_KEY_ALL_USERS, arg);
  } catch (error) {
    if (error instanceof KernelError && error.code === "ENOKEY") return "gone";
    throw error;
  }
  return (arg.readUInt32LE(40) & FILES_BUSY) === 0 ? "gone" : "busy";
}

/** For every user; costs microseconds. */
export function keyState(fd: number, identifier: KeyIdentifier): KeyState {
  const arg = specifier(identifier, 128);
  syscall("ioctl get encryption key status", NR.ioctl, fd, KEY_STATUS, arg);
  const state = KEY_STATES.get(arg.readUInt32LE(64) as 1 | 2 | 3);
  if (state === undefined) throw new Error(`the kernel has an unknown state of key ${identifier}`);
  return state;
}

function specifier(identifier: KeyIdentifier, bytes: number): Buffer {
  const arg = Buffer.alloc(bytes);
  arg.writeUInt32LE(SPECIFIER_BY_IDENTIFIER);
  arg.write(identifier, IDENTIFIER_AT, IDENTIFIER_BYTES, "hex");
  return arg;
}
