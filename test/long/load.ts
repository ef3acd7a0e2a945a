import { expect } from "bun:test";
import type { Appliance } from "../fixtures/appliance.ts";
import { createChanges } from "./changes.ts";

/** Of a file that has one writer: what is there must be a version that was tried, none older than the last acknowledged. */
interface Versions {
  acknowledged: number;
  tried: number;
}

type Answer = { status: number; text: string } | null;

/** What a call in flight, or one that comes too early, may be told when a role dies. */
const HONEST = [429, 502, 503];

const contentOf = (version: number): string => `${version}:${"x".repeat((version * 7919) % 30_000)}:end`;
const hashOf = (content: string): string => new Bun.CryptoHasher("sha256").update(content).digest("hex");
const namespaceOf = (worker: number): string => `files-${worker % 2}`;

/**
 * Eleven clients that write, delete, run commands, make and revoke keys, and delete namespaces, as fast as they are
 * answered, and keep account of what was acknowledged. Every answer but "a role is away" has to be right, and so has the
 * audit log.
 */
export function startLoad(appliance: () => Appliance) {
  const { workspace_id: workspace, admin_key: key } = appliance().keys;
  const admin = { key, namespace: null };
  const counts = { writes: 0, removed: 0, execs: 0, keys: 0, revoked: 0, deleted: 0, refused: 0, cut: 0 };
  const changes = createChanges();
  const files = new Map<string, Versions & { readonly namespace: string }>();
  const keys = {
    made: new Set<string>(),
    revoking: new Set<string>(),
    revoked: new Set<string>(),
    ended: new Set<string>(),
  };
  const deleted = new Set<string>();
  const removed = new Map<string, string>();
  const state = { working: true, inFlight: 0, gate: Promise.withResolvers<void>() };
  state.gate.resolve();

  /** Null when it was cut, or told that a role is away. `change` is what the audit log calls what it changes. */
  async function call(path: string, init: Parameters<Appliance["call"]>[1], change: string): Promise<Answer> {
    await state.gate.promise;
    state.inFlight += 1;
    changes.try(change);
    try {
      const response = await appliance().call(path, { signal: AbortSignal.timeout(60_000), ...init });
      const text = await response.text();
      if (response.ok) changes.acknowledge(change);
      if (!HONEST.includes(response.status)) return { status: response.status, text };
      expect(text).toMatch(/"detail":".{10}/);
      counts.refused += 1;
    } catch (error) {
      // What fetch says of a connection has a code.
      if (!(error instanceof Error && typeof (error as { code?: unknown }).code === "string")) throw error;
      counts.cut += 1;
    } finally {
      state.inFlight -= 1;
    }
    await Bun.sleep(20);
    return null;
  }

  function entry(path: string, worker: number) {
    const known = files.get(path) ?? { acknowledged: 0, tried: 0, namespace: namespaceOf(worker) };
    files.set(path, known);
    known.tried += 1;
    return known;
  }

  async function writer(worker: number): Promise<void> {
    for (let n = 0; state.working; n++) {
      const path = `w${worker}/f${n % 7}`;
      const file = entry(path, worker);
      const version = file.tried;
      const content = contentOf(version);
      const { namespace } = file;
      const change = `file.written ${namespace} workspace/${path} ${hashOf(content)}`;
      const answer =
        n % 2 === 0
          ? await call("/write", { namespace, json: { path, content } }, change)
          : await call(`/files/${path}`, { namespace, method: "PUT", body: content }, change);
      if (answer === null) continue;
      expect(answer).toMatchObject({ status: 200 });
      file.acknowledged = version;
      counts.writes += 1;
    }
  }

  async function runner(worker: number): Promise<void> {
    for (let n = 0; state.working; n++) {
      const path = `e${worker}/f${n % 3}`;
      const file = entry(path, worker);
      const version = file.tried;
      const content = `${version}:$(head -c ${(version * 7919) % 30_000} /dev/zero | tr '\\0' x):end`;
      const command = `mkdir -p workspace/e${worker}; sleep 0.0${n % 10}; printf %s "${content}" >workspace/new-${worker}
        mv workspace/new-${worker} workspace/${path}; echo ${worker} ${version}`;
      const { namespace } = file;
      const change = `exec.completed ${namespace} ${command}`;
      const answer = await call("/v1/exec", { namespace, json: { command } }, change);
      if (answer === null) continue;
      expect(answer).toMatchObject({ status: 200 });
      const said = JSON.parse(answer.text) as object;
      expect(said).toMatchObject({ exit_code: 0, stdout: `${worker} ${version}\n`, stderr: "" });
      file.acknowledged = version;
      counts.execs += 1;
    }
  }

  async function keyMaker(): Promise<void> {
    const path = `/v1/workspaces/${workspace}/keys`;
    for (let n = 0; state.working; n++) {
      // An audit asks about every key.
      await Bun.sleep(100);
      const name = `k${n}`;
      const made = await call(path, { ...admin, json: { name, namespace: "locked" } }, `key.created ${name}`);
      if (made === null) continue;
      expect(made.status).toBeLessThan(300);
      const { api_key: apiKey, key_id: id } = JSON.parse(made.text) as { api_key: string; key_id: string };
      keys.made.add(apiKey);
      counts.keys += 1;
      if (n % 3 !== 0) continue;
      keys.revoking.add(apiKey);
      const ended = await call(`${path}/${id}`, { ...admin, method: "DELETE" }, `key.revoked ${name}`);
      if (ended === null) continue;
      keys.revoked.add(apiKey);
      keys.ended.add(id);
      counts.revoked += 1;
    }
  }

  async function remover(): Promise<void> {
    for (let n = 0; state.working; n++) {
      const namespace = `gone-${n}`;
      if ((await write(namespace, "a", "a")) === null) continue;
      if (n % 4 === 0) {
        const command = "echo b >workspace/b";
        await call("/v1/exec", { namespace, json: { command } }, `exec.completed ${namespace} ${command}`);
      }
      const path = `/v1/workspaces/${workspace}/namespaces/${namespace}`;
      const answer = await call(path, { ...admin, method: "DELETE" }, `namespace.deleted ${namespace}`);
      if (answer === null) continue;
      expect(answer).toMatchObject({ status: 200 });
      deleted.add(namespace);
      counts.deleted += 1;
    }
  }

  async function write(namespace: string, path: string, content: string): Promise<Answer> {
    const change = `file.written ${namespace} workspace/${path} ${hashOf(content)}`;
    return call("/write", { namespace, json: { path, content } }, change);
  }

  async function deleter(): Promise<void> {
    for (let n = 0; state.working; n++) {
      const [namespace, path] = [namespaceOf(n), `d/f${n}`];
      if ((await write(namespace, path, `${n}`)) === null) continue;
      const change = `file.deleted ${namespace} workspace/${path}`;
      const answer = await call("/delete", { namespace, json: { path } }, change);
      if (answer === null) continue;
      expect(answer).toMatchObject({ status: 200 });
      removed.set(path, namespace);
      counts.removed += 1;
    }
  }

  async function checkRemoved(): Promise<void> {
    for (const namespace of ["files-0", "files-1"]) {
      const response = await appliance().call("/v1/files?path=d", { namespace });
      const { entries } = (await response.json()) as { entries?: { path: string }[] };
      const back = (entries ?? []).filter(
        ({ path }) => removed.get(path.slice("workspace/".length)) === namespace,
      );
      expect(back).toEqual([]);
    }
  }

  async function checkFiles(): Promise<void> {
    for (const [path, { namespace, acknowledged, tried }] of files) {
      const response = await appliance().call(`/files/${path}`, { namespace });
      if (acknowledged === 0 && response.status === 404) continue;
      const content = await response.text();
      const found = Number(content.split(":")[0]);
      const seen = JSON.stringify({ path, status: response.status, found, acknowledged, tried });
      if (!(found >= acknowledged && found <= tried)) throw new Error(`lost or made up: ${seen}`);
      if (content !== contentOf(found)) throw new Error(`torn: ${seen}`);
    }
  }

  async function checkAccounts(): Promise<void> {
    // Of those that don't work any more only a few are tried: calls without a valid key are limited.
    const tried = new Set([...keys.revoking].slice(-5));
    for (const apiKey of keys.made) {
      if (keys.revoking.has(apiKey) && !tried.has(apiKey)) continue;
      const { status } = await appliance().call("/v1/me", { key: apiKey, namespace: null });
      const revoking = keys.revoking.has(apiKey) ? [200, 401] : [200];
      expect(keys.revoked.has(apiKey) ? [401] : revoking).toContain(status);
    }
    const listing = await appliance().call(`/v1/workspaces/${workspace}/keys`, admin);
    const { keys: listed } = (await listing.json()) as { keys: { key_id: string }[] };
    expect(listed.filter(({ key_id }) => keys.ended.has(key_id))).toEqual([]);
    const response = await appliance().call(`/v1/workspaces/${workspace}/namespaces`, admin);
    const { namespaces } = (await response.json()) as { namespaces: { namespace: string }[] };
    expect(namespaces.filter(({ namespace }) => deleted.has(namespace))).toEqual([]);
  }

  const workers = [0, 1, 2, 3];
  const ended = Promise.all([
    ...workers.map(writer),
    ...workers.map(runner),
    keyMaker(),
    remover(),
    deleter(),
  ]);

  return {
    counts,
    /** Rejects when an answer was wrong. */
    ended,
    /** With no call in flight, compares what is there with what was acknowledged. */
    async audit() {
      state.gate = Promise.withResolvers<void>();
      while (state.inFlight > 0) await Bun.sleep(10);
      await checkFiles();
      await checkRemoved();
      await checkAccounts();
      const found = await changes.compare(appliance().data);
      state.gate.resolve();
      return found;
    },
    async stop(): Promise<void> {
      state.working = false;
      state.gate.resolve();
      await ended;
    },
  };
}
