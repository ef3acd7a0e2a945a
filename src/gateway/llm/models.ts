import type { Dialect, LlmGrant } from "../../protocol/gateway.ts";

/** The models that a grant names, in the dialect of who asks. */
export function listModels(dialect: Dialect, models: readonly string[]): Response {
  const data = models.map((id) => model(dialect, id));
  return Response.json(
    dialect === "anthropic"
      ? { data, has_more: false, first_id: models[0] ?? null, last_id: models.at(-1) ?? null }
      : { object: "list", data },
  );
}

export function showModel(dialect: Dialect, id: string): Response {
  return Response.json(model(dialect, id));
}

function model(dialect: Dialect, id: string) {
  return dialect === "anthropic"
    ? { type: "model", id, display_name: id, created_at: "1970-01-01T00:00:00Z" }
    : { id, object: "model", created: 0, owned_by: "provider" };
}

export function allows({ models }: Pick<LlmGrant, "models">, model: string): boolean {
  return models === null || models.includes(model);
}
