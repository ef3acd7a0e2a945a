import { expect } from "bun:test";
import type { Appliance } from "../fixtures/appliance.ts";

/** Of a file that has one writer: what is there must be a version that was tried, none older than the last acknowledged. */
interface Versions {
  acknowledged: number;
  tried: number;
}

type Answer = { status: number; text: string } | null;

/** What a call in flight, or one that comes too early, may be told when a role dies. */
const HONEST = [429, 502, 503];

const contentOf = (version: number): string => `${version}:${"x".repeat((version * 7919) % 30_000)}:end`;
const namespaceOf = (worker: number): string => `files-${worker % 2}`;

/**
 * Ten clients that write, run commands, make and revoke keys, and delete namespaces, as fast as they are answered, and
 * keep a ledger of what was acknowledged. Every answer but "a role is away" has to be right.
 */
export function startLoad(appliance: () => Appliance) {
  const { workspace_id: workspace, admin_key: key } = appliance().keys;
  const admin = { key, namespace: null };
  const counts = { writes: 0, execs: 0, keys: 0, revoked: 0, deleted: 0, refused: 0, cut: 0 };
  const files = new Map<string, Versions & { readonly namespace: string }>();
  const keys = { made: new Set<string>(), revoking: new Set<string>(), revoked: new Set<string>() };
  const deleted = new Set<string>();
  const state = { working: true, inFlight: 0, gate: Promise.withResolvers<void>() };
  state.gate.resolve();

  /** Null when it was cut, or told that a role is away. */
  async function call(path: string, init: Parameters<Appliance["call"]>[1]): Promise<Answer> {
    await state.gate.promise;
    state.inFlight += 1;
    try {
      const response = await appliance().call(path, { signal: AbortSignal.timeout(60_000), ...init });
      const text = await response.text();
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
      const answer =
        n % 2 === 0
          ? await call("/write", { namespace, json: { path, content } })
          : await call(`/files/${path}`, { namespace, method: "PUT", body: content });
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
      const answer = await call("/v1/exec", { namespace: file.namespace, json: { command } });
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
      const made = await call(path, { ...admin, json: { name: `k${n}`, namespace: "locked" } });
      if (made === null) continue;
      expect(made.status).toBeLessThan(300);
      const { api_key: apiKey, key_id: id } = JSON.parse(made.text) as { api_key: string; key_id: string };
      keys.made.add(apiKey);
      counts.keys += 1;
      if (n % 3 !== 0) continue;
      keys.revoking.add(apiKey);
      if ((await call(`${path}/${id}`, { ...admin, method: "DELETE" })) === null) continue;
      keys.revoked.add(apiKey);
      counts.revoked += 1;
    }
  }

  async function remover(): Promise<void> {
    for (let n = 0; state.working; n++) {
      const namespace = `gone-${n}`;
      if ((await call("/write", { namespace, json: { path: "a", content: "a" } })) === null) continue;
      if (n % 4 === 0) await call("/v1/exec", { namespace, json: { command: "echo b >workspace/b" } });
      const path = `/v1/workspaces/${workspace}/namespaces/${namespace}`;
      const answer = await call(path, { ...admin, method: "DELETE" });
      if (answer === null) continue;
      expect(answer).toMatchObject({ status: 200 });
      deleted.add(namespace);
      counts.deleted += 1;
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
    for (const apiKey of keys.made) {
      const { status } = await appliance().call("/v1/me", { key: apiKey, namespace: null });
      const revoking = keys.revoking.has(apiKey) ? [200, 401] : [200];
      expect(keys.revoked.has(apiKey) ? [401] : revoking).toContain(status);
    }
    const response = await appliance().call(`/v1/workspaces/${workspace}/namespaces`, admin);
    const { namespaces } = (await response.json()) as { namespaces: { namespace: string }[] };
    expect(namespaces.filter(({ namespace }) => deleted.has(namespace))).toEqual([]);
  }

  const workers = [0, 1, 2, 3];
  const ended = Promise.all([...workers.map(writer), ...workers.map(runner), keyMaker(), remover()]);

  return {
    counts,
    /** Rejects when an answer was wrong. */
    ended,
    /** With no call in flight, compares what is there with what was acknowledged. */
    async audit(): Promise<void> {
      state.gate = Promise.withResolvers<void>();
      while (state.inFlight > 0) await Bun.sleep(10);
      await checkFiles();
      await checkAccounts();
      state.gate.resolve();
    },
    async stop(): Promise<void> {
      state.working = false;
      state.gate.resolve();
      await ended;
    },
  };
}
