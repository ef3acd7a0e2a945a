import { accessSync, constants } from "node:fs";
import { z } from "zod";
import { environment } from "../config/environment.ts";
import { AppError, type ErrorCode } from "../errors.ts";
import { DEFAULT_DATA, openInstance, type Instance } from "../instance/instance.ts";
import { localUser } from "../kernel/users.ts";
import { LOCAL_USER_HEADER } from "../protocol/local-user.ts";

export interface Call {
  readonly method?: "POST" | "PUT" | "DELETE";
  readonly headers?: Readonly<Record<string, string>>;
  readonly json?: unknown;
  readonly body?: ReadableStream<Uint8Array> | Blob;
}

/** The running api, by its admin socket: what reaches it there is the operator's. */
export interface Appliance {
  readonly instance: Instance;
  /** Throws a Refusal with the api's own sentence when it refuses. */
  call(path: string, call?: Call): Promise<Response>;
  /** The answer's JSON in the shape that it must have. */
  ask<S extends z.ZodType>(schema: S, path: string, call?: Call): Promise<z.infer<S>>;
}

/** Where the exit code matters, an error of the api is the error that it would be here. */
const CODES: Readonly<Record<number, ErrorCode>> = {
  400: "bad_input",
  403: "forbidden",
  404: "not_found",
  408: "timeout",
  409: "conflict",
  413: "too_large",
  415: "not_text",
  422: "invalid",
  429: "busy",
  502: "sandbox_lost",
  503: "unavailable",
  507: "no_space",
};

const refusal = z.object({ detail: z.string() });

/** The api's own no, with all that it said. */
export class Refusal extends AppError {
  readonly answer: unknown;

  constructor(code: ErrorCode, detail: string, answer: unknown) {
    super(code, detail);
    this.name = "Refusal";
    this.answer = answer;
  }
}

export function connect(data: string): Appliance {
  const instance = openInstance(data);
  const unix = instance.sockets.admin;

  async function call(path: string, { json, ...rest }: Call = {}): Promise<Response> {
    checkReach(instance);
    const headers = { ...rest.headers, [LOCAL_USER_HEADER]: localUser(environment()["SUDO_USER"]) };
    const content = json === undefined ? {} : { body: JSON.stringify(json) };
    let response: Response;
    try {
      response = await fetch(`http://cofferdam${path}`, { ...rest, ...content, headers, unix });
    } catch (error) {
      const { code } = error as { code?: string };
      if (code === "ENOENT" || code === "ECONNREFUSED") throw notRunning(instance);
      const why = error instanceof Error ? error.message : String(error);
      throw new AppError("unavailable", `The appliance broke off its answer (${why}); its log may say why.`);
    }
    if (response.ok) return response;
    const answer = await bodyOf(response);
    const { detail } = refusal.catch({ detail: `The api answered ${response.status}.` }).parse(answer);
    throw new Refusal(CODES[response.status] ?? "internal", detail, answer);
  }

  return {
    instance,
    call,
    async ask(schema, path, options) {
      const { success, data, error } = schema.safeParse(await (await call(path, options)).json());
      if (success) return data;
      const field = error.issues[0]?.path.join(".") ?? "";
      throw new AppError(
        "internal",
        `The appliance answered ${path} in a way that this command does not know ("${field}" is not as it should be): restart the appliance if it was upgraded since it began.`,
        { cause: error },
      );
    },
  };
}

async function bodyOf(response: Response): Promise<unknown> {
  return response.json().catch(() => null);
}

/** fetch tells a socket that is not there from one that may not be used no better than this. */
function checkReach(instance: Instance): void {
  try {
    accessSync(instance.sockets.admin, constants.W_OK);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EACCES") throw notRunning(instance);
    throw new AppError(
      "forbidden",
      "Only root and the group cofferdam may do this; use sudo, or add yourself to the group.",
    );
  }
}

function notRunning({ data, inst }: Instance): AppError {
  const at = data === DEFAULT_DATA ? "" : `@${inst}`;
  return new AppError(
    "unavailable",
    `The appliance of ${data} is not running; start it with: systemctl start cofferdam${at}.target, or: cofferdam serve --data ${data}` +
      `. If it ended by itself, see why: journalctl -u cofferdam-api${at}`,
  );
}
