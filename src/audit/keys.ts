import type { Secrets } from "../secrets.ts";
import { createSigner, type Signer } from "./signer.ts";

export interface AuditKeys {
  /** For the MAC of each chain's head. */
  readonly headKey: Uint8Array;
  /** For the MAC of each change on disk that was announced. */
  readonly intentKey: Uint8Array;
  /** For what others than the appliance check. */
  readonly signer: Signer;
}

/** What proves the audit log, all of it from the master key and nothing of it in the database. */
export function auditKeys(secrets: Pick<Secrets, "derive">): AuditKeys {
  return {
    headKey: secrets.derive("audit head"),
    intentKey: secrets.derive("audit intent"),
    signer: createSigner(secrets.derive("audit signature")),
  };
}
