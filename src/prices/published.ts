import { existsSync, readFileSync } from "node:fs";
import { AppError } from "../errors.ts";
import type { Instance } from "../instance/instance.ts";
import { publish } from "../instance/setup.ts";
import { createPrices, priceFile, type Prices } from "./prices.ts";

/**
 * Gives the roles a copy of [providers] prices_file, which they don't see; "" is none. As root. When the file is bad, what was
 * good before stays, with what is wrong, which is returned.
 */
export function publishPrices(instance: Instance, file: string): string | null {
  const content = contentOf(file);
  if (content instanceof AppError) return content.message;
  publish(instance.publishedPrices, content);
  publish(instance.gatewayPrices, content, "cofferdam-gw");
  return null;
}

function contentOf(file: string): string | AppError {
  if (file === "") return JSON.stringify({ models: {} });
  try {
    const text = readFileSync(file, "utf8");
    priceFile.parse(JSON.parse(text));
    return text;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const why =
      code === "ENOENT"
        ? "there is no such file"
        : code === undefined
          ? "it is not JSON with prices, as docs/gateways.md has it"
          : `it cannot be read (${code})`;
    return new AppError("invalid", `[providers] prices_file = "${file}": ${why}.`);
  }
}

/** The prices in force, from such a copy. */
export function readPublishedPrices(path: string): Prices {
  return createPrices(existsSync(path) ? priceFile.parse(JSON.parse(readFileSync(path, "utf8"))) : undefined);
}
