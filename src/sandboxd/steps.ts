import { StepError } from "../protocol/lines/failure.ts";

/** The steps of taking something away: each is tried, and what failed is thrown together by `done`. */
export function createSteps(message: string) {
  const failures: StepError[] = [];
  return {
    async attempt(step: string, act: () => void | Promise<void>): Promise<void> {
      try {
        await act();
      } catch (error) {
        failures.push(new StepError(step, error));
      }
    },
    done(): void {
      if (failures.length > 0) throw new AggregateError(failures, message);
    },
  };
}
