import { z } from "zod";
import { namespaceId } from "../ids.ts";
import { manifestRef } from "../snapshots/manifest.ts";

/*
 * What api and `cofferdam backup create` say to each other on the admin socket.
 *
 *   POST /admin/backup/capture         a line for each step, then "ready", then "waiting" until the client hangs up:
 *                                      as long as this answer lasts, the capture does
 *   GET  /admin/backup/ID/database     the copy of the database
 *   GET  /admin/backup/ID/namespaces   a line for each
 *   GET  /admin/backup/ID/blob?key=K   404 when there is none
 *   GET  /admin/backup/ID/exists?namespace=N
 *   DELETE /admin/backup/ID            the client needs it no more
 *   POST /admin/backup/done            what became of it, for the audit log
 */
export const missedNamespaces = z.array(
  z.strictObject({ namespace: namespaceId.schema, reason: z.string() }),
);

export const captureRequest = z.strictObject({ files: z.boolean() });

export const captureLine = z.union([
  z.strictObject({ step: z.string(), done: z.number(), of: z.number().nullable() }),
  z.strictObject({
    ready: z.string(),
    databaseVersion: z.number(),
    databaseBytes: z.number(),
    namespaceCount: z.number(),
    missed: missedNamespaces,
  }),
  z.strictObject({ waiting: z.literal(true) }),
  z.strictObject({ failed: z.string(), code: z.string() }),
]);
export type CaptureLine = z.infer<typeof captureLine>;

export const namespaceLine = z.strictObject({
  id: namespaceId.schema,
  wrappedKey: z.base64().nullable(),
  manifests: z.array(manifestRef),
});

export const existsAnswer = z.strictObject({ exists: z.boolean() });

export const doneRequest = z.strictObject({
  backup_id: z.string(),
  to: z.string(),
  namespaces: z.int(),
  blobs: z.int(),
  bytes_added: z.int(),
});
