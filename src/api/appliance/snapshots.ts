import { Elysia } from "elysia";
import { AppError } from "../../errors.ts";
import { workspaceId } from "../../ids.ts";
import type { Snapshots, VerifiedSnapshot } from "../../snapshots/snapshots.ts";
import type { Access } from "../auth.ts";

interface SnapshotAdminParts {
  readonly access: Access;
  readonly snapshots: Pick<Snapshots, "verify" | "tidy">;
}

/** What the operator alone does with snapshots, whosever they are. */
export function snapshotAdminRoutes({ access, snapshots }: SnapshotAdminParts) {
  return (
    new Elysia({ prefix: "/admin" })
      .resolve(async ({ request }) => {
        await access.operatorOnly(request);
      })
      /** A line of JSON for each snapshot, as it is done, and a last one that says so: it may take hours. */
      .get("/snapshots/verify", ({ request, query }) => {
        const workspace = query["workspace"];
        const id = workspace === undefined ? undefined : workspaceId.schema.safeParse(workspace).data;
        if (workspace !== undefined && id === undefined)
          throw new AppError("bad_input", "Name the workspace by its id: ?workspace=ws-…");
        const of = { workspaceId: id, namespace: query["namespace"], snapshot: query["snapshot"] };
        const lines = linesOf(snapshots.verify(of, { signal: request.signal }));
        const body = new ReadableStream<Uint8Array>(
          {
            async pull(controller) {
              const { done, value } = await lines.next();
              if (done === true) controller.close();
              else controller.enqueue(value);
            },
            cancel: () => void lines.return(undefined),
          },
          { highWaterMark: 0 },
        );
        return new Response(body, { headers: { "content-type": "application/x-ndjson" } });
      })
      .post("/gc", async () => snapshots.tidy.all(), { parse: "none" })
  );
}

async function* linesOf(verified: AsyncIterable<VerifiedSnapshot>): AsyncGenerator<Uint8Array, void> {
  let count = 0;
  for await (const one of verified) {
    count += 1;
    yield line(shown(one));
  }
  yield line({ verified: count });
}

const line = (value: unknown) => Buffer.from(`${JSON.stringify(value)}\n`);

function shown({ snapshot, blobs, bytes, damage }: VerifiedSnapshot) {
  return {
    snapshot_id: snapshot.id,
    workspace_id: snapshot.workspaceId,
    namespace: snapshot.namespace,
    label: snapshot.label,
    blobs,
    bytes,
    damage,
  };
}
