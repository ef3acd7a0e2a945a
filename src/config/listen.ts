import { AppError } from "../errors.ts";

/** HOST:PORT of `[http] listen`, which has to be of this host alone. */
export function loopbackAddress(listen: string): { hostname: string; port: number } {
  const colon = listen.lastIndexOf(":");
  const host = listen.slice(0, colon).replace(/^\[(.*)\]$/, "$1");
  const port = Number(listen.slice(colon + 1));
  if (!/^(localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|::1)$/.test(host)) {
    throw new AppError(
      "invalid",
      `[http] listen = "${listen}" would serve keys and files in the clear beyond this host; ` +
        "use a loopback address such as 127.0.0.1:8080 and a proxy that does TLS.",
    );
  }
  if (port > 65535) throw new AppError("invalid", `[http] listen = "${listen}": the port is at most 65535.`);
  return { hostname: host === "localhost" ? "127.0.0.1" : host, port };
}
