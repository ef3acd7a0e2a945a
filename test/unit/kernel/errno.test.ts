import { expect, test } from "bun:test";
import { constants } from "node:os";
import { KernelError } from "../../../src/kernel/libc.ts";

test("an error of the kernel has the name that its callers look for", () => {
  expect(new KernelError("flock", constants.errno.EAGAIN).code).toBe("EAGAIN");
  expect(new KernelError("open", constants.errno.ENOENT).code).toBe("ENOENT");
  expect(new KernelError("open", 4000).code).toBe("E4000");
});

test("what can't be done has one of its two names", () => {
  expect(new KernelError("landlock_create_ruleset", constants.errno.EOPNOTSUPP).code).toBe("ENOTSUP");
});
