/**
 * Forward only: a statement list per version, each applied once, in order. All that are new to a database are one
 * transaction, with their numbers. A released one is never edited.
 */
export const migrations: readonly (readonly string[])[] = [
  [
    `CREATE TABLE workspaces (
       id TEXT PRIMARY KEY NOT NULL,
       name TEXT NOT NULL,
       created_at INTEGER NOT NULL
     ) STRICT`,
    `CREATE TABLE namespaces (
       id TEXT PRIMARY KEY NOT NULL,
       workspace_id TEXT NOT NULL REFERENCES workspaces (id),
       name TEXT NOT NULL,
       created_at INTEGER NOT NULL,
       last_used_at INTEGER NOT NULL,
       deleting_at INTEGER
     ) STRICT`,
    `CREATE UNIQUE INDEX namespaces_name ON namespaces (workspace_id, name) WHERE deleting_at IS NULL`,
    `CREATE TABLE keys (
       id TEXT PRIMARY KEY NOT NULL,
       workspace_id TEXT NOT NULL REFERENCES workspaces (id),
       name TEXT NOT NULL,
       scope TEXT NOT NULL CHECK (scope IN ('admin', 'workspace')),
       namespace_id TEXT REFERENCES namespaces (id) ON DELETE CASCADE,
       prefix TEXT NOT NULL,
       hash TEXT NOT NULL UNIQUE,
       created_at INTEGER NOT NULL,
       last_used_at INTEGER,
       revoked_at INTEGER,
       CHECK (scope = 'workspace' OR namespace_id IS NULL)
     ) STRICT`,
    // One row at most: the first run, until its keys have been handed over.
    `CREATE TABLE setup (
       id INTEGER PRIMARY KEY CHECK (id = 1),
       workspace_id TEXT NOT NULL REFERENCES workspaces (id),
       done_at INTEGER
     ) STRICT`,
    `CREATE INDEX keys_workspace ON keys (workspace_id)`,
    `CREATE INDEX keys_namespace ON keys (namespace_id)`,
  ],
  [
    // A chain is a workspace's id, or "appliance". Times are microseconds since 1970, unlike elsewhere. With rowids, since
    // an index's page keeps but 1 KiB of a row: without them this takes twice the disk, and reads are ten times slower.
    `CREATE TABLE events (
       chain TEXT NOT NULL,
       created_at INTEGER NOT NULL,
       seq INTEGER NOT NULL,
       id TEXT NOT NULL UNIQUE,
       type TEXT NOT NULL,
       namespace TEXT,
       body TEXT NOT NULL,
       hash TEXT NOT NULL,
       PRIMARY KEY (chain, created_at)
     ) STRICT`,
    `CREATE INDEX events_namespace ON events (chain, namespace, created_at, type)`,
    `CREATE INDEX events_type ON events (chain, type, created_at)`,
    // The newest event of each chain, with a MAC by a key that is not in here.
    `CREATE TABLE heads (
       chain TEXT PRIMARY KEY NOT NULL,
       seq INTEGER NOT NULL,
       created_at INTEGER NOT NULL,
       hash TEXT NOT NULL,
       mac TEXT NOT NULL
     ) STRICT, WITHOUT ROWID`,
    // The last event that retention removed from each chain, signed.
    `CREATE TABLE checkpoints (
       chain TEXT PRIMARY KEY NOT NULL,
       seq INTEGER NOT NULL,
       created_at INTEGER NOT NULL,
       hash TEXT NOT NULL,
       cut_at INTEGER NOT NULL,
       signature TEXT NOT NULL
     ) STRICT, WITHOUT ROWID`,
    // Changes on disk that were begun; each goes in the transaction that writes its event.
    `CREATE TABLE intents (
       id TEXT PRIMARY KEY NOT NULL,
       begun_at INTEGER NOT NULL,
       namespace_id TEXT NOT NULL,
       draft TEXT NOT NULL
     ) STRICT, WITHOUT ROWID`,
  ],
  [
    // Sign-ins under way. Both codes are only here as hashes; a row goes when its key is fetched, or soon after its end.
    `CREATE TABLE device_logins (
       id TEXT PRIMARY KEY NOT NULL,
       device_hash TEXT NOT NULL UNIQUE,
       user_hash TEXT NOT NULL UNIQUE,
       client TEXT NOT NULL,
       address TEXT NOT NULL,
       source TEXT NOT NULL,
       network TEXT NOT NULL,
       created_at INTEGER NOT NULL,
       expires_at INTEGER NOT NULL,
       state TEXT NOT NULL CHECK (state IN ('pending', 'approved', 'denied')),
       workspace_id TEXT REFERENCES workspaces (id),
       namespace_id TEXT REFERENCES namespaces (id) ON DELETE CASCADE,
       approver_key_id TEXT,
       approver_local_user TEXT,
       CHECK (state <> 'approved' OR workspace_id IS NOT NULL)
     ) STRICT`,
    `CREATE INDEX device_logins_crowd ON device_logins (network, source, created_at)`,
    `CREATE INDEX device_logins_source ON device_logins (source)`,
    `CREATE INDEX device_logins_expiry ON device_logins (expires_at)`,
    `CREATE INDEX device_logins_namespace ON device_logins (namespace_id)`,
  ],
  [
    `CREATE TABLE webhooks (
       id TEXT PRIMARY KEY NOT NULL,
       workspace_id TEXT NOT NULL REFERENCES workspaces (id),
       url TEXT NOT NULL,
       events TEXT NOT NULL,
       namespace TEXT,
       description TEXT,
       created_at INTEGER NOT NULL,
       state TEXT NOT NULL CHECK (state IN ('enabled', 'disabled', 'deleted')),
       disabled_reason TEXT,
       starts_after INTEGER NOT NULL,
       secret BLOB NOT NULL,
       previous_secret BLOB,
       previous_until INTEGER,
       failing_since INTEGER,
       last_delivery_ok INTEGER,
       last_delivery_status INTEGER,
       last_delivery_at INTEGER,
       last_delivery_error TEXT
     ) STRICT`,
    `CREATE INDEX webhooks_workspace ON webhooks (workspace_id)`,
    // An event on its way to an endpoint. Its event is named by the time that is its key in the log, in microseconds.
    `CREATE TABLE deliveries (
       webhook_id TEXT NOT NULL REFERENCES webhooks (id),
       event_at INTEGER NOT NULL,
       event_id TEXT NOT NULL,
       type TEXT NOT NULL,
       state TEXT NOT NULL CHECK (state IN ('waiting', 'delivered', 'dead')),
       due_at INTEGER NOT NULL,
       attempts INTEGER NOT NULL,
       attempted_at INTEGER,
       status INTEGER,
       error TEXT,
       PRIMARY KEY (webhook_id, event_at)
     ) STRICT, WITHOUT ROWID`,
    `CREATE INDEX deliveries_due ON deliveries (webhook_id, due_at) WHERE state = 'waiting'`,
    `CREATE INDEX deliveries_state ON deliveries (webhook_id, state, event_at)`,
    // How far each chain's events have been made into deliveries.
    `CREATE TABLE fanouts (
       chain TEXT PRIMARY KEY NOT NULL,
       event_at INTEGER NOT NULL
     ) STRICT, WITHOUT ROWID`,
  ],
  [
    // What a start makes events of. One that was announced before this is settled as nobody's.
    `ALTER TABLE intents ADD COLUMN mac TEXT NOT NULL DEFAULT ''`,
  ],
  [
    // What all that lies at rest of a namespace is sealed under.
    `ALTER TABLE namespaces ADD COLUMN wrapped_key BLOB`,
  ],
  [
    // Blobs are not in here: `manifest` lists those that the snapshot's list of files is in, as JSON.
    `CREATE TABLE snapshots (
       id TEXT PRIMARY KEY NOT NULL,
       namespace_id TEXT NOT NULL REFERENCES namespaces (id) ON DELETE CASCADE,
       kind TEXT NOT NULL CHECK (kind IN ('user', 'backup')),
       label TEXT,
       created_at INTEGER NOT NULL,
       size_bytes INTEGER NOT NULL,
       stored_bytes INTEGER NOT NULL,
       file_count INTEGER NOT NULL,
       skipped INTEGER NOT NULL,
       manifest TEXT NOT NULL
     ) STRICT`,
    `CREATE INDEX snapshots_namespace ON snapshots (namespace_id, created_at)`,
    `CREATE INDEX snapshots_age ON snapshots (created_at)`,
  ],
  [
    // What its files come to. `usage_at` is the time of the chain's newest event then; null: to be counted again.
    `ALTER TABLE namespaces ADD COLUMN usage_bytes INTEGER NOT NULL DEFAULT 0`,
    `ALTER TABLE namespaces ADD COLUMN usage_files INTEGER NOT NULL DEFAULT 0`,
    `ALTER TABLE namespaces ADD COLUMN usage_directories INTEGER NOT NULL DEFAULT 0`,
    `ALTER TABLE namespaces ADD COLUMN usage_at INTEGER`,
  ],
  [
    // Namespaces whose files are still to be made from a backup's snapshot: with their first use, or soon after.
    `CREATE TABLE restores (
       namespace_id TEXT PRIMARY KEY NOT NULL REFERENCES namespaces (id) ON DELETE CASCADE,
       snapshot_id TEXT NOT NULL
     ) STRICT, WITHOUT ROWID`,
  ],
  [
    // In S3 mode: what the head in the bucket said when the namespace was last claimed, and says at least.
    `ALTER TABLE namespaces ADD COLUMN claimed_epoch INTEGER NOT NULL DEFAULT 0`,
  ],
  [
    // Secrets that runs use by way of the gateway. `sealed` opens with the gateway's key alone.
    `CREATE TABLE credentials (
       id TEXT PRIMARY KEY NOT NULL,
       workspace_id TEXT NOT NULL REFERENCES workspaces (id),
       name TEXT NOT NULL,
       kind TEXT NOT NULL CHECK (kind IN ('anthropic', 'openai', 'github-app', 'git-token')),
       settings TEXT NOT NULL,
       namespaces TEXT,
       sealed BLOB NOT NULL,
       created_at INTEGER NOT NULL,
       last_used_at INTEGER,
       UNIQUE (workspace_id, name)
     ) STRICT`,
    // What a workspace's runs may be at most.
    `CREATE TABLE policies (
       workspace_id TEXT PRIMARY KEY NOT NULL REFERENCES workspaces (id),
       policy TEXT NOT NULL,
       changed_at INTEGER NOT NULL
     ) STRICT, WITHOUT ROWID`,
    // Dollars are billionths. `token` is sealed, and gone with the run's end. `base` is the manifest that its worktree was
    // made from; `gateway_seq` is how far the gateway's journal of it has been read.
    `CREATE TABLE runs (
       id TEXT PRIMARY KEY NOT NULL,
       workspace_id TEXT NOT NULL REFERENCES workspaces (id),
       namespace_id TEXT NOT NULL REFERENCES namespaces (id) ON DELETE CASCADE,
       key_id TEXT,
       status TEXT NOT NULL CHECK (status IN ('queued', 'preparing', 'running', 'succeeded', 'failed', 'cancelled',
         'timed_out', 'budget_exhausted', 'error')),
       label TEXT,
       request TEXT NOT NULL,
       grants TEXT NOT NULL,
       limits TEXT NOT NULL,
       created_at INTEGER NOT NULL,
       started_at INTEGER,
       finished_at INTEGER,
       deadline INTEGER,
       exit_code INTEGER,
       error TEXT,
       stop TEXT,
       boot_id TEXT,
       fate TEXT,
       settled INTEGER NOT NULL DEFAULT 0,
       network TEXT,
       given BLOB,
       timings TEXT NOT NULL DEFAULT '{}',
       usage TEXT NOT NULL DEFAULT '{}',
       denials TEXT NOT NULL DEFAULT '[]',
       usd_nano INTEGER NOT NULL DEFAULT 0,
       gateway_seq INTEGER NOT NULL DEFAULT 0,
       worktree TEXT NOT NULL CHECK (worktree IN ('none', 'making', 'ready', 'merging', 'merged', 'discarded')),
       base TEXT,
       result TEXT,
       receipt TEXT
     ) STRICT`,
    `CREATE INDEX runs_workspace ON runs (workspace_id, created_at, id)`,
    `CREATE INDEX runs_namespace ON runs (namespace_id, created_at, id)`,
    `CREATE INDEX runs_unsettled ON runs (created_at, id) WHERE settled = 0`,
    `CREATE INDEX runs_worktrees ON runs (finished_at) WHERE worktree IN ('making', 'ready', 'merging')`,
  ],
  [
    // The newest proofs that the walls hold. `override`: why runs begin although it failed, and who says so.
    `CREATE TABLE proofs (
       id INTEGER PRIMARY KEY AUTOINCREMENT,
       at INTEGER NOT NULL,
       passed INTEGER NOT NULL,
       report TEXT NOT NULL,
       override TEXT
     ) STRICT`,
  ],
  [
    // What receipts say besides the rest of a run's row: who asked for it and where the log was, and what it ran in.
    `ALTER TABLE runs ADD COLUMN origin TEXT`,
    `ALTER TABLE runs ADD COLUMN made_of TEXT`,
  ],
];
