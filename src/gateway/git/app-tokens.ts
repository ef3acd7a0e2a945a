import { createHash } from "node:crypto";
import { z } from "zod";
import { AppError } from "../../errors.ts";
import type { RunId } from "../../ids.ts";
import type { Log } from "../../log.ts";
import type { Secrets } from "../../secrets.ts";
import type { Call } from "../call.ts";
import type { Grant } from "../grant.ts";
import type { Journal } from "../journal.ts";
import { mintToken, revokeToken, type InstallationToken, type Scope } from "./app-token.ts";
import type { AppCredential } from "./credential.ts";

export interface AppTokensParts {
  readonly call: Call;
  /** Of the gateway's own key: what it seals is of no use beside it. */
  readonly secrets: Pick<Secrets, "seal" | "open">;
  readonly log: Log;
  readonly now: () => number;
}

export type AppTokens = ReturnType<typeof createAppTokens>;

const REFRESH_BEFORE_MS = 5 * 60_000;
/** A run that asks again and again does not have GitHub asked each time. */
const FAILED_MS = 2000;
const PREFIX = "git token ";
const PURPOSE = "git token";

const keptToken = z.strictObject({ api_url: z.string(), expires_at: z.number(), sealed: z.base64() });

/**
 * Installation tokens, each of one run: in memory, and sealed in its journal before anything is done with one, so that
 * those that a crash leaves are revoked as well. (Between GitHub's making one and its line in the journal a crash leaves
 * one that nobody knows; it ends by itself within the hour.)
 */
export function createAppTokens({ call, secrets, log, now }: AppTokensParts) {
  const runs = new Map<RunId, Map<string, Promise<InstallationToken>>>();

  async function mint(grant: Grant, credential: AppCredential, scope: Scope): Promise<InstallationToken> {
    const made = await mintToken(call, credential, scope, now());
    const name = PREFIX + createHash("sha256").update(made.token).digest("hex").slice(0, 16);
    const plain = Buffer.from(made.token);
    const sealed = Buffer.from(secrets.seal(PURPOSE, plain, `${grant.run} ${name}`)).toString("base64");
    try {
      await grant.journal.keep(name, { api_url: credential.api_url, expires_at: made.expiresAt, sealed });
    } catch (error) {
      await revokeToken(call, credential.api_url, made.token).catch(() => undefined);
      log.error("a git token was given back, since the run's journal can't be written", {
        run: grant.run,
        error,
      });
      throw new AppError("unavailable", "The gateway can't write this run's journal.", { cause: error });
    }
    return made;
  }

  return {
    /** One that is good for five minutes more at least; those who ask at the same time share one. */
    async token(grant: Grant, credential: AppCredential, scope: Scope): Promise<string> {
      const mine = runs.get(grant.run) ?? new Map<string, Promise<InstallationToken>>();
      runs.set(grant.run, mine);
      const key = JSON.stringify([credential.api_url, credential.app_id, scope]);
      const known = mine.get(key);
      if (known !== undefined) {
        const { token, expiresAt } = await known;
        if (expiresAt - now() > REFRESH_BEFORE_MS) return token;
      }
      // Whoever else found the old one too old may have begun already.
      const begun = mine.get(key);
      if (begun !== undefined && begun !== known) return (await begun).token;
      grant.signal.throwIfAborted();
      const minting = mint(grant, credential, scope);
      mine.set(key, minting);
      minting.catch(() => {
        const timer = setTimeout(() => mine.get(key) === minting && mine.delete(key), FAILED_MS);
        timer.unref();
      });
      return (await minting).token;
    },

    /** One that the server does not take any more is not given out again. */
    async forget(run: RunId, token: string): Promise<void> {
      const mine = runs.get(run);
      for (const [key, minting] of mine ?? []) {
        const made = await minting.catch(() => null);
        if (made?.token === token && mine?.get(key) === minting) mine.delete(key);
      }
    },

    /** Revokes all that a journal keeps. Rejects when one is left that may be good. */
    async revokeAll(journal: Journal): Promise<void> {
      await Promise.allSettled(Array.from(runs.get(journal.run)?.values() ?? []));
      runs.delete(journal.run);
      const names = [...journal.kept().keys()].filter((name) => name.startsWith(PREFIX));
      const results = await Promise.allSettled(names.map((name) => revoke(journal, name)));
      const failed = results.filter((result) => result.status === "rejected");
      if (failed.length === 0) return;
      throw new AggregateError(
        failed.map(({ reason }) => reason as unknown),
        `${failed.length} git tokens are not revoked yet`,
      );
    },
  };

  async function revoke(journal: Journal, name: string): Promise<void> {
    const kept = keptToken.parse(journal.kept().get(name));
    if (kept.expires_at > now()) {
      const token = opened(journal.run, name, kept.sealed);
      if (token !== null) await revokeToken(call, kept.api_url, token);
    }
    journal.drop(name);
  }

  function opened(run: RunId, name: string, sealed: string): string | null {
    try {
      return Buffer.from(secrets.open(PURPOSE, Buffer.from(sealed, "base64"), `${run} ${name}`)).toString();
    } catch {
      log.error("a git token can't be opened, so it ends by itself within the hour", { run });
      return null;
    }
  }
}
