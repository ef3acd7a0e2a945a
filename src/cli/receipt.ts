import { readFileSync } from "node:fs";
import { defineCommand } from "citty";
import { z } from "zod";
import { AppError } from "../errors.ts";
import { faultOf, receiptSchema, type Receipt } from "../runs/receipt.ts";
import { connect } from "./appliance.ts";
import { dataArgument } from "./arguments.ts";
import { jsonArgument, print } from "./output.ts";
import { strict } from "./strict.ts";

/** What is shown of a receipt that is whole. */
const told = z.object({
  run_id: z.string(),
  status: z.string(),
  finished_at: z.string(),
  asked_by: z.object({ key_id: z.string().nullable(), local_user: z.string().nullable() }),
  /** Those of older versions don't say. */
  usage_complete: z.boolean().optional(),
});

const verify = defineCommand({
  meta: {
    name: "verify",
    description: "Prove that a receipt is what the appliance signed, without it; exits 1 when it is not",
  },
  plugins: [strict],
  args: {
    file: {
      type: "positional",
      description: "The receipt, as the appliance gave it",
      valueHint: "FILE",
      required: true,
    },
    key: {
      type: "string",
      description: "The appliance's public key: cofferdam receipt key, or GET /v1/appliance/key",
      valueHint: "PEM",
    },
    ...jsonArgument,
  },
  run({ args }) {
    if (args.key === undefined) {
      throw new AppError("bad_input", "Name the appliance's public key: --key PEM.");
    }
    const receipt = receiptIn(textOf(args.file));
    const reason = receipt === null ? "it is no receipt" : faultOf(receipt, textOf(args.key));
    if (receipt === null || reason !== null) {
      print(args.json, { ok: false, reason }, () => `The receipt does not hold: ${reason}.`);
      process.exitCode = 1;
      return;
    }
    const { payload, key_id } = receipt;
    const facts: unknown = JSON.parse(payload);
    print(args.json, { ok: true, key_id, payload: facts }, () => sentence(told.parse(facts), key_id));
  },
});

const get = defineCommand({
  meta: { name: "get", description: "The receipt of a run that is over, as JSON" },
  plugins: [strict],
  args: {
    run: { type: "positional", description: "The run", valueHint: "RUN", required: true },
    ...dataArgument,
  },
  async run({ args }) {
    const receipt = await connect(args.data).ask(
      receiptSchema,
      `/v1/runs/${encodeURIComponent(args.run)}/receipt`,
    );
    print(true, receipt, () => "");
  },
});

const key = defineCommand({
  meta: { name: "key", description: "The public key that receipts are verified with" },
  plugins: [strict],
  args: { ...dataArgument, ...jsonArgument },
  async run({ args }) {
    const schema = z.object({ key_id: z.string(), algorithm: z.string(), public_key: z.string() });
    const answer = await connect(args.data).ask(schema, "/v1/appliance/key");
    print(args.json, answer, () => answer.public_key.trimEnd());
  },
});

export const receipt = defineCommand({
  meta: { name: "receipt", description: "What the appliance attests of runs, and its proof" },
  subCommands: { verify, get, key },
});

function textOf(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new AppError("bad_input", `${file} cannot be read (${code}).`, { cause: error });
  }
}

function receiptIn(text: string): Receipt | null {
  try {
    return receiptSchema.parse(JSON.parse(text));
  } catch {
    return null;
  }
}

function sentence(facts: z.infer<typeof told>, keyId: string): string {
  const { run_id, status, finished_at, asked_by, usage_complete } = facts;
  const who = asked_by.key_id ?? asked_by.local_user ?? "the appliance";
  const holds = `The receipt holds: ${run_id}, asked for by ${who}, ended ${finished_at} as ${status}. Signed by the key ${keyId}.`;
  if (usage_complete === true) return holds;
  const lack =
    usage_complete === false
      ? "What it says that the run used is not all: the gateway was away when it ended. The rest is in the audit log, after this receipt's head."
      : "It does not say whether what the run used is all there: an older version made it.";
  return `${holds}\n${lack}`;
}
