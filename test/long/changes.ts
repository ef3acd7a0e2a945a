import { join } from "node:path";
import { openCopy } from "../../src/db/open.ts";
import { allEvents, type WireEvent } from "../fixtures/chain.ts";

/** What asks whether commands run again. */
export const MENDED = "echo up";
/** Not of the load: that, what made the appliance, and what was refused. */
const OTHER_TYPES = new Set(["workspace.created", "setup.finished", "request.refused"]);
const FIRST_KEYS = new Set<unknown>(["admin", "workspace"]);

function isOther({ type, data }: WireEvent): boolean {
  return (
    OTHER_TYPES.has(type) ||
    (type === "exec.completed" && data["command"] === MENDED) ||
    (type === "key.created" && FIRST_KEYS.has(data["name"]))
  );
}

/**
 * Every change that was asked for, each under a name that is its own, and those that were acknowledged; to be compared
 * with the audit log.
 */
export function createChanges() {
  const tried = new Set<string>();
  const acknowledged = new Set<string>();

  return {
    try: (name: string) => void tried.add(name),
    acknowledge: (name: string) => void acknowledged.add(name),

    /**
     * With nothing under way: of each acknowledged change one event, and of each event a change that was asked for,
     * once. What it has found, for the report.
     */
    async compare(data: string) {
      const db = await openCopy(join(data, "api/state/cofferdam.db"));
      const events = await allEvents(db).finally(() => db.close());
      const found = new Map<string, WireEvent[]>();
      for (const event of events) {
        if (isOther(event)) continue;
        const name = nameOf(event);
        found.set(name, [...(found.get(name) ?? []), event]);
      }
      const wrong: string[] = [];
      for (const name of acknowledged) if (!found.has(name)) wrong.push(`no event: ${name}`);
      for (const [name, same] of found) {
        if (!tried.has(name)) wrong.push(`not asked for: ${name}`);
        if (same.length > 1) wrong.push(`${same.length} events: ${name} ${JSON.stringify(same)}`);
      }
      if (wrong.length > 0) throw new Error(`the audit log is wrong:\n${wrong.slice(0, 20).join("\n")}`);
      const settled = events.filter((event) => event.settled === true);
      const unacknowledged = [...found.keys()].filter((name) => !acknowledged.has(name)).length;
      const unknown = settled.filter((event) => event.data["outcome"] === "unknown").length;
      return { events: events.length, settled: settled.length, unknown, unacknowledged };
    },
  };
}

/** As startLoad names its changes. */
function nameOf({ type, namespace, data }: WireEvent): string {
  switch (type) {
    case "file.written":
      return `${type} ${namespace} ${String(data["path"])} ${String(data["sha256"])}`;
    case "file.deleted":
      return `${type} ${namespace} ${String(data["path"])}`;
    case "exec.completed":
      return `${type} ${namespace} ${String(data["command"])}`;
    case "key.created":
    case "key.revoked":
      return `${type} ${String(data["name"])}`;
    default:
      return `${type} ${namespace}`;
  }
}
