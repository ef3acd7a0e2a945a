import { z } from "zod";
import { snapshotId } from "../ids.ts";

/** The body of POST /v1/runs. Unknown fields are refused by name: a misspelt limit must not be no limit. */
const positive = z.int().min(1);

/** NAME, as POSIX has it. */
const VARIABLE = /^[A-Za-z_][A-Za-z0-9_]*$/;
const MAX_TEXT = 128 * 1024;

/** Half of a pair reaches no command as it is, and what the appliance signs and hashes has no form for it. */
const utf8 = (most: number) =>
  z
    .string()
    .max(most)
    .refine((value) => value.isWellFormed(), "has half of a surrogate pair, which UTF-8 cannot hold");

const text = utf8(MAX_TEXT).refine((value) => !value.includes("\0"), "must not hold a NUL");

const environment = z
  .unknown()
  // z.record passes over it.
  .refine((given) => !Object.hasOwn(Object(given), "__proto__"), {
    message: "this name can't be set",
    path: ["__proto__"],
  })
  .pipe(z.record(z.string().regex(VARIABLE, "expected a variable's name"), text));

const llm = z.strictObject({
  /** A credential's name. */
  credential: z.string().min(1).max(100),
  models: z.array(z.string().min(1).max(200)).min(1).max(100).optional(),
  max_usd: z.number().min(0).max(1_000_000).optional(),
  max_output_tokens: positive.optional(),
  max_requests: positive.optional(),
  provider_tools: z.boolean().optional(),
});

const git = z.strictObject({
  credential: z.string().min(1).max(100),
  repositories: z
    .array(
      z.strictObject({
        name: z
          .string()
          .regex(/^[A-Za-z0-9._-]+\/[A-Za-z0-9._-]+$/, "expected owner/repo")
          .refine((name) => !name.split("/").some((part) => /^\.+$/.test(part)), "expected owner/repo"),
        access: z.enum(["read", "write"]).default("read"),
        branches: z.array(z.string().min(1).max(200)).max(100).default([]),
        update: z.boolean().default(false),
      }),
    )
    .min(1)
    .max(100),
});

const egress = z.strictObject({
  /** "pypi.example", "*.example.org", "example.org:8443". */
  allow: z.array(z.string().min(1).max(300)).max(200).default([]),
  /** "203.0.113.7:5432". */
  direct: z.array(z.string().min(1).max(300)).max(64).default([]),
});

export const runRequest = z
  .strictObject({
    command: text.min(1).optional(),
    agent: z
      .strictObject({ kind: z.enum(["claude-code", "codex", "opencode"]), prompt: text.min(1) })
      .optional(),
    stdin: utf8(1024 * 1024).optional(),
    stdin_open: z.boolean().optional(),
    env: environment.optional(),
    label: utf8(200)
      .regex(/^\P{Cc}*$/u, "has a control character")
      .optional(),
    worktree: z
      .discriminatedUnion("from", [
        z.strictObject({ from: z.literal("namespace") }),
        z.strictObject({ from: z.literal("snapshot"), snapshot_id: snapshotId.schema }),
        z.strictObject({ from: z.literal("empty") }),
      ])
      .default({ from: "namespace" }),
    // Not a union, whose errors would name no field within.
    llm: z
      .preprocess((given) => (Array.isArray(given) ? given : [given]), z.array(llm).min(1).max(8))
      .optional(),
    git: git.optional(),
    egress: egress.optional(),
    limits: z
      .strictObject({
        timeout_s: positive.optional(),
        memory_mb: positive.min(64).optional(),
        cpus: z.number().min(0.1).optional(),
        pids: positive.optional(),
        disk_mb: positive.optional(),
      })
      .prefault({}),
    on_success: z.enum(["keep", "merge", "discard"]).default("keep"),
  })
  .refine(({ command, agent }) => (command === undefined) !== (agent === undefined), {
    message: "give either command or agent",
    path: ["command"],
  })
  .refine(({ stdin, stdin_open }) => stdin === undefined || stdin_open !== true, {
    message: "give either stdin or stdin_open",
    path: ["stdin"],
  });

export type RunRequest = z.infer<typeof runRequest>;
