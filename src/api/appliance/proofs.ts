import { Elysia } from "elysia";
import { z } from "zod";
import { proofReport } from "../../protocol/proof.ts";
import type { ProofState, Proofs } from "../../runs/proofs.ts";
import type { Access } from "../auth.ts";
import { label, readJson } from "../http/body.ts";
import { timestamp } from "../http/time.ts";

const overriding = z.strictObject({ reason: label });
const SHOWN = 20;

/** What `cofferdam prove` found, and what that means for new runs: the operator's. */
export function proofRoutes({ access, proofs }: { readonly access: Access; readonly proofs: Proofs }) {
  return new Elysia({ prefix: "/admin/proofs" })
    .resolve(async ({ request }) => {
      await access.operatorOnly(request);
    })
    .get("", async () => {
      const found = await proofs.list(SHOWN);
      return {
        ...shown(proofs.state()),
        proofs: found.map(({ report, ...state }) => ({ ...shown(state), report })),
      };
    })
    .post(
      "",
      async ({ request }) =>
        shown(await proofs.record(await readJson(request, proofReport), access.origin(request))),
      { parse: "none" },
    )
    .post(
      "/override",
      async ({ request }) => {
        const { reason } = await readJson(request, overriding);
        return shown(await proofs.override(reason, access.origin(request)));
      },
      { parse: "none" },
    );
}

function shown({ at, passed, failed, override }: ProofState) {
  return {
    at: at === null ? null : timestamp(at),
    passed,
    failed,
    override,
    admission: passed || override !== null ? "open" : "closed",
  };
}
