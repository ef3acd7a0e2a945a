/** What can be in the log of a workspace, so that asking for a type that never happens is told apart from a slip. */
const EVENT_TYPES: ReadonlySet<string> = new Set([
  "audit.broken",
  "credential.created",
  "credential.deleted",
  "exec.completed",
  "file.deleted",
  "file.written",
  "key.created",
  "key.revoked",
  "login.approved",
  "login.denied",
  "namespace.deleted",
  "run.created",
  "run.discarded",
  "run.finished",
  "run.merged",
  "run.started",
  "setup.finished",
  "snapshot.created",
  "snapshot.deleted",
  "snapshot.restored",
  "webhook.created",
  "webhook.deleted",
  "webhook.disabled",
  "webhook.enabled",
  "webhook.rotated",
  "webhook.test",
  "workspace.created",
]);

/** A type, or with `.*` at its end all of a kind, of which there is one. */
export function isKnownPattern(pattern: string): boolean {
  if (!pattern.endsWith(".*")) return EVENT_TYPES.has(pattern);
  return EVENT_TYPES.values().some((type) => type.startsWith(pattern.slice(0, -1)));
}
