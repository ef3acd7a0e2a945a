import { startWebProxy } from "../test/fixtures/web-proxy.ts";

/* `bun egress-end.ts JSON`: one end of bench/egress.ts in a process of its own, the web proxy or the server. Prints its port and token. */
export type EgressEnd =
  | { readonly kind: "proxy"; readonly host: string; readonly port: number }
  | { readonly kind: "server"; readonly cert: string; readonly key: string; readonly bytes: number };

const given = JSON.parse(process.argv[2] ?? "{}") as EgressEnd;
if (given.kind === "proxy") {
  const { host, port } = given;
  const proxy = startWebProxy({ egress: { allow: [{ host, port }] }, names: () => ["127.0.0.1"] });
  console.log(`${proxy.port} ${proxy.token}`);
} else {
  const { cert, key, bytes } = given;
  const large = new Uint8Array(bytes);
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    tls: { cert, key },
    fetch: ({ url }) => new Response(url.endsWith("/large") ? large : "hi"),
  });
  console.log(`${server.port} none`);
}
