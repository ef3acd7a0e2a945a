import type { deviceLogins } from "../db/schema.ts";
import { AppError } from "../errors.ts";
import type { LoginId } from "../ids.ts";

export type LoginRow = typeof deviceLogins.$inferSelect;

/** What an approver is shown. Nothing of it ever changes: another sign-in has another `binding`. */
export interface PendingLogin {
  readonly id: LoginId;
  /** What the program calls itself. */
  readonly client: string;
  /** Where it asked from. */
  readonly address: string;
  readonly createdAt: number;
  readonly expiresAt: number;
  /** A hash of all that; whoever answers gives it back, and so answers what was shown. */
  readonly binding: string;
}

/** What an event says of it. */
export function told({ id, client, address }: LoginRow) {
  return { login_id: id, client, address };
}

export function shown(row: LoginRow): PendingLogin {
  const { id, client, address, createdAt, expiresAt } = row;
  return { id, client, address, createdAt, expiresAt, binding: bindingOf(row) };
}

function bindingOf({ id, client, address, createdAt, expiresAt }: LoginRow): string {
  const seen = JSON.stringify([id, client, address, createdAt, expiresAt]);
  return new Bun.CryptoHasher("sha256").update(seen).digest("hex");
}

/** Throws unless the answer is to this one. */
export function checkBinding(row: LoginRow, binding: string): void {
  if (bindingOf(row) === binding) return;
  throw new AppError("conflict", "This is not the sign-in that was shown; look at it again.");
}

/** For any code that does not wait for an answer: a guess must not tell one kind from another. */
export function noSuchLogin(): AppError {
  return new AppError(
    "not_found",
    "No sign-in waits for an answer under this code; it may be mistyped, answered already, or older than 10 minutes.",
  );
}
