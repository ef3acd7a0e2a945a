/** What an attempt came to: `dead` ones are not tried again. */
export type AttemptResult = "delivered" | "failed" | "dead";

/** Told of each attempt, with the time since the event. */
export interface DeliveryMeter {
  attempted(result: AttemptResult, sinceEventMs: number): void;
}
