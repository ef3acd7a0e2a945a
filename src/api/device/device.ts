import { Elysia } from "elysia";
import { z } from "zod";
import type { Origin } from "../../audit/event.ts";
import { shownUserCode } from "../../signin/code.ts";
import type { Logins } from "../../signin/logins.ts";
import { readJson } from "../http/body.ts";
import type { Contexts } from "../http/context.ts";

interface DeviceRoutesParts {
  readonly logins: Pick<Logins, "start" | "poll">;
  readonly contexts: Pick<Contexts, "of">;
}

const MAX_BODY_BYTES = 4096;
const CLIENT_LENGTH = 120;

/** What a program that signs in calls (RFC 8628); it has no key yet. */
export function deviceRoutes({ logins, contexts }: DeviceRoutesParts) {
  return new Elysia({ prefix: "/v1/auth/device" })
    .post(
      "/start",
      async ({ request }) => {
        const { address, secure, host } = contexts.of(request);
        const started = await logins.start({ client: clientOf(request), address });
        const code = shownUserCode(started.userCode);
        // In the words of who asked. A wrong host misleads nobody but its sender, who is the only one to read the answer.
        const page = `${secure ? "https" : "http"}://${host}/device`;
        return {
          device_code: started.deviceCode,
          user_code: code,
          verification_uri: page,
          verification_uri_complete: `${page}?user_code=${code}`,
          interval: started.intervalS,
          expires_in: started.expiresInS,
        };
      },
      { parse: "none" },
    )
    .post(
      "/poll",
      async ({ request }) => {
        const { device_code } = await readJson(
          request,
          z.object({ device_code: z.string() }),
          MAX_BODY_BYTES,
        );
        const { id, address } = contexts.of(request);
        const origin: Origin = { keyId: null, localUser: null, requestId: id, address };
        const poll = await logins.poll(device_code, origin);
        if (poll.status !== "approved") return { status: poll.status };
        return { status: poll.status, api_key: poll.apiKey, workspace_id: poll.workspaceId };
      },
      { parse: "none" },
    );
}

/** It is read in terminals and pages by who has to trust it: nothing that could move or hide other text. */
function clientOf(request: Request): string {
  const name = (request.headers.get("user-agent") ?? "").replaceAll(/[^ -~]/g, "?").trim();
  return name === "" ? "unnamed" : name.slice(0, CLIENT_LENGTH);
}
