import type { GitGrant } from "../../protocol/gateway.ts";
import type { Grant } from "../grant.ts";
import type { GitCredential } from "./credential.ts";
import type { Route } from "./route.ts";
import type { Repository } from "./rules.ts";

/** One request of git's that its run may make, as far as the path tells. */
export interface Asked {
  readonly request: Request;
  readonly grant: Grant;
  readonly git: GitGrant;
  readonly credential: GitCredential;
  readonly route: Route;
  readonly repository: Repository;
}
