import type { Outcome } from "./outcome.ts";

/** Told of what runs do. */
export interface RunMeter {
  /** A run's command is started, so long after its request: in a spare sandbox, or in one that was booted for it. */
  begun(source: "spare" | "boot", seconds: number): void;
  ended(status: Outcome["status"]): void;
}
