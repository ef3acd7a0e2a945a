import { requestId, type KeyId, type RequestId, type WorkspaceId } from "../../ids.ts";
import type { Taken } from "./buckets.ts";

/** What is known of a request besides itself. The later fields fill as it is recognised; the log tells of them. */
export interface RequestContext {
  readonly id: RequestId;
  /** The client's, as text; null on the admin socket. */
  readonly address: string | null;
  /** Whether it came over TLS, to this process or to a proxy that it trusts. */
  readonly secure: boolean;
  /** The name that the client called, with the port if it gave one: what a Host header has. */
  readonly host: string;
  /** By performance.now(). */
  readonly startedAt: number;
  /** The pattern of the route that answers it, such as /v1/workspaces/:ws/keys. */
  route: string | null;
  workspaceId: WorkspaceId | null;
  keyId: KeyId | null;
  namespace: string | null;
  /** Its answer may say nothing for long; the connection ends with it. */
  silent: boolean;
  /** The limit that it was counted by last: the one that refused it, or its key's. */
  rate: CountedBy | null;
}

export interface CountedBy {
  readonly name: "address" | "key" | "failures";
  readonly taken: Taken;
}

export type Contexts = ReturnType<typeof createContexts>;

/** The contexts of the requests that are being answered. */
export function createContexts() {
  const contexts = new WeakMap<Request, RequestContext>();

  function begin(
    request: Request,
    from: Pick<RequestContext, "address" | "secure" | "host">,
  ): RequestContext {
    const context: RequestContext = {
      id: requestId.make(),
      ...from,
      startedAt: performance.now(),
      route: null,
      workspaceId: null,
      keyId: null,
      namespace: null,
      silent: false,
      rate: null,
    };
    contexts.set(request, context);
    return context;
  }

  return {
    begin,
    /** One that no server began, in a test for instance, is from nowhere. */
    of: (request: Request): RequestContext =>
      contexts.get(request) ?? begin(request, { address: null, secure: false, host: "" }),
  };
}
