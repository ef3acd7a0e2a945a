import { foreseen } from "../../errors.ts";

/**
 * Why something failed, for the operator: our own sentence, or the errno's name, since what fetch says beside it asks for
 * a typo in a URL.
 */
export function reasonOf(error: unknown): string {
  const told = foreseen(error);
  if (told !== null) return told.message;
  if (!(error instanceof Error)) return String(error);
  return "code" in error && typeof error.code === "string" ? error.code : error.message;
}
