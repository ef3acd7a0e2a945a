import type { Config } from "../config/schema.ts";
import { createOwnAddresses } from "../net/own.ts";
import { createAddressPolicy } from "../net/policy.ts";
import { createResolver } from "../net/resolve.ts";
import { sealTo } from "../protocol/seal.ts";
import type { GatewayClient } from "../runs/gateway-client.ts";
import { createCredentials, type CredentialsParts } from "./credentials.ts";
import { createUrlCheck } from "./url.ts";

export interface OpenCredentials extends Pick<CredentialsParts, "db" | "ledger"> {
  readonly gateway: Pick<GatewayClient, "call">;
  readonly settings: () => Config["providers"];
}

/** As the operator allows their servers now, and sealed to the key of the gateway that runs now. */
export function openCredentials({ db, ledger, gateway, settings }: OpenCredentials) {
  const policy = createAddressPolicy({
    allowPrivate: () => settings().allow_private,
    setting: "[providers] allow_private",
    isOwn: createOwnAddresses(),
    mayAllowThisHost: true,
  });
  return createCredentials({
    db,
    ledger,
    checkUrl: createUrlCheck({ policy, resolve: createResolver() }),
    async seal(plain, boundTo) {
      const { public_key: publicKey } = await gateway.call("publicKey", {});
      return sealTo(Buffer.from(publicKey, "base64"), plain, boundTo);
    },
  });
}
