import { openSync } from "node:fs";
import { constants, renameAt } from "../../../src/kernel/openat2.ts";

/** swap.ts DIRECTORY A B: exchanges the two names again and again, until it is killed. */
const [directory = "", a = "", b = ""] = process.argv.slice(2);
const fd = openSync(directory, "r");
for (;;) renameAt(fd, a, fd, b, constants.RENAME_EXCHANGE);
