import type { NamespaceId } from "../ids.ts";
import type { Standstill } from "../snapshots/create.ts";
import type { Exec } from "./exec.ts";
import type { SandboxdClient } from "./sandboxd-client.ts";

interface Parts {
  readonly sandboxd: Pick<SandboxdClient, "call">;
  readonly exec: Pick<Exec, "isWarm">;
}

/** Makes what runs in a namespace stand still. sandboxd lets it go on by itself should this process end meanwhile. */
export function createStandstill({ sandboxd, exec }: Parts): Standstill {
  const thaw = async (namespace: NamespaceId): Promise<boolean> =>
    (await sandboxd.call("thawSandbox", { namespace })).stood;

  return {
    isWarm: (namespace) => exec.isWarm(namespace),

    async freeze(namespace) {
      // Asked of sandboxd even when api knows of none: a sandbox may have lived on from before api's start.
      try {
        const { frozen } = await sandboxd.call("freezeSandbox", { namespace });
        return frozen ? { thaw: async () => thaw(namespace) } : null;
      } catch (error) {
        // It may be done yet, only late.
        thaw(namespace).catch(() => {});
        throw error;
      }
    },
  };
}
