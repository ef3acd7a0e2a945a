/**
 * `bun bench/receiver.ts HOST PORT`: endpoints, told apart by path. Those below /slow answer after 5 s, the others at
 * once. GET / gives the milliseconds from each event to its arrival there, by path, and forgets them.
 */
const [hostname = "", port = ""] = process.argv.slice(2);
const SLOW_MS = 5000;
let delays: Record<string, number[]> = {};

Bun.serve({
  hostname,
  port: Number(port),
  async fetch(request) {
    const { pathname } = new URL(request.url);
    if (request.method === "GET") {
      const answer = Response.json(delays);
      delays = {};
      return answer;
    }
    const { created_at } = (await request.json()) as { created_at: string };
    (delays[pathname] ??= []).push(Date.now() - Date.parse(created_at));
    if (pathname.startsWith("/slow")) await Bun.sleep(SLOW_MS);
    return new Response(null, { status: 204 });
  },
});
console.log("ready");
