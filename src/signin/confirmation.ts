import { z } from "zod";
import { AppError } from "../errors.ts";
import { keyId, type KeyId } from "../ids.ts";
import type { Secrets } from "../secrets.ts";
import { readUserCode, type UserCode } from "./code.ts";

const LIFE_MS = 5 * 60_000;
const PURPOSE = "sign-in confirmation";

/** That the holder of this key was shown the sign-in of this code as it then was. */
export interface Confirmation {
  readonly keyId: KeyId;
  readonly code: UserCode;
  readonly binding: string;
}

const content = z.object({
  keyId: keyId.schema,
  code: z.string(),
  binding: z.string(),
  until: z.number(),
});

/**
 * What leads from the page's first step to its second. It is in the second step's form, sealed, instead of the admin key
 * (which would be pasted twice, or stand in the page) and of a cookie (which a browser sends whoever asks it to, and
 * keeps). It answers this one sign-in, by this one key while that works, for five minutes; and nothing is stored.
 */
export function createConfirmations({ secrets, now = Date.now }: { secrets: Secrets; now?: () => number }) {
  return {
    seal(confirmation: Confirmation): string {
      const text = JSON.stringify({ ...confirmation, until: now() + LIFE_MS });
      return Buffer.from(secrets.seal(PURPOSE, new TextEncoder().encode(text), "")).toString("base64url");
    },

    /** Throws when it is not one of ours, or too old. */
    open(sealed: string): Confirmation {
      const { code, until, ...rest } = content.parse(JSON.parse(opened(sealed)));
      const userCode = readUserCode(code);
      if (userCode === null || until <= now()) throw stale();
      return { ...rest, code: userCode };
    },
  };

  function opened(sealed: string): string {
    try {
      return Buffer.from(secrets.open(PURPOSE, Buffer.from(sealed, "base64url"), "")).toString();
    } catch (error) {
      throw stale(error);
    }
  }
}

export type Confirmations = ReturnType<typeof createConfirmations>;

function stale(cause?: unknown): AppError {
  return new AppError("conflict", "This page is more than five minutes old; start again.", { cause });
}
