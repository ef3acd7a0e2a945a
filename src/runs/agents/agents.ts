import type { Adapters } from "../launch.ts";
import { claudeCode } from "./claude-code.ts";
import { codex } from "./codex.ts";
import { opencode } from "./opencode.ts";

/** The agents of the run image (rootfs/agents). */
export const agents: Adapters = { "claude-code": claudeCode, codex, opencode };
