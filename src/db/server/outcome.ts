import { AppError } from "../../errors.ts";

/** Nobody knows yet whether a transaction was made. */
export class OutcomeUnknown extends AppError {
  constructor(cause: unknown) {
    super(
      "unavailable",
      "The database server did not say whether this was done; look whether it was before you try again.",
      { retryAfterS: 5, cause },
    );
  }
}
