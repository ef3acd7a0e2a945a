import { version } from "../package.json" with { type: "json" };

/** Set by build/binary.ts; absent when run from source. */
declare const COFFERDAM_COMMIT: string | undefined;

export const buildInfo: { readonly version: string; readonly commit: string | null; readonly bun: string } = {
  version,
  commit: typeof COFFERDAM_COMMIT === "string" ? COFFERDAM_COMMIT : null,
  bun: Bun.version,
};
