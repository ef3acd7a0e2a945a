import type { CredentialId, RunId } from "../ids.ts";
import type { RunGrant } from "../protocol/gateway.ts";
import type { Denial } from "./denials.ts";
import type { Journal } from "./journal.ts";

/** A run that is let in, as lanes see it. */
export interface Grant {
  readonly run: RunId;
  /** What it may at this moment: api may change it, so a lane reads it once a request. */
  readonly spec: () => RunGrant;
  /** A credential of the grant, opened: the JSON that was sealed. Never to be logged, nor put in an error. */
  readonly secret: (credential: CredentialId) => unknown;
  readonly journal: Journal;
  /** Counts what is refused; many alike become few records. */
  readonly deny: (denial: Denial) => void;
  /** Aborted when the run is revoked or its time is over: everything under way for it ends then. */
  readonly signal: AbortSignal;
}

/** What answers one kind of a run's requests. The caller's token and address are checked already. */
export interface Lane {
  handle(request: Request, grant: Grant): Promise<Response>;
  /**
   * A run is over, or is one from before a restart that nobody let in again: undoes what its journal keeps, such as
   * tokens. Tried again later when it rejects, so it has to drop what is done.
   */
  end?(journal: Journal): Promise<void>;
}
