/** What can be in the log, so that asking for a type that never happens is told apart from a slip. */
const EVENT_TYPES: readonly string[] = [
  "audit.begun",
  "audit.broken",
  "backup.created",
  "backup.restored",
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
  "policy.changed",
  "proof.failed",
  "proof.overridden",
  "proof.passed",
  "request.refused",
  "run.created",
  "run.denied",
  "run.discarded",
  "run.egress",
  "run.examined",
  "run.finished",
  "run.git",
  "run.llm",
  "run.merged",
  "run.started",
  "run.stopped",
  "setup.finished",
  "snapshot.created",
  "snapshot.damaged",
  "snapshot.deleted",
  "snapshot.restored",
  "webhook.created",
  "webhook.deleted",
  "webhook.disabled",
  "webhook.enabled",
  "webhook.replayed",
  "webhook.rotated",
  "webhook.test",
  "workspace.created",
];

/** The types that a pattern stands for: itself, or with `.*` at its end all of a kind, or `*` for all. None for a slip. */
export function typesOf(pattern: string): string[] {
  if (pattern === "*") return [...EVENT_TYPES];
  if (!pattern.endsWith(".*")) return EVENT_TYPES.filter((type) => type === pattern);
  return EVENT_TYPES.filter((type) => type.startsWith(pattern.slice(0, -1)));
}

export function isKnownPattern(pattern: string): boolean {
  return typesOf(pattern).length > 0;
}
