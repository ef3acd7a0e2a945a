import type { Place } from "./appliance.ts";
import type { Group } from "./claim.ts";
import { fileClaims } from "./files.ts";
import { hostExecClaims } from "./host-exec.ts";
import { hostClaims } from "./host.ts";
import { claimsOf } from "./look.ts";
import { networkClaims } from "./network.ts";
import { runLooks } from "./run-looks.ts";
import { secretClaims } from "./secrets.ts";
import { openStage } from "./stage.ts";

/** Two runs beside each other: what one of them can do, and what the host shows of them. */
export function runGroup(place: Place): Group {
  return {
    name: "run",
    slow: false,
    async open() {
      const stage = await openStage(place);
      const claims = [
        ...claimsOf(runLooks(place.config), stage.report),
        ...networkClaims(stage),
        ...hostClaims(stage),
        ...hostExecClaims(stage),
        ...secretClaims(stage),
        ...fileClaims(stage),
      ];
      return { claims, close: async () => stage.close() };
    },
  };
}
