/**
 * `bun bench/llm-provider.ts`: a provider of models that answers at once, or streams `max_tokens` events one each 50 ms. Each event
 * holds when it was sent. Prints where it listens.
 */
const EVERY_MS = 50;
const usage = { input_tokens: 20, output_tokens: 10 };
const event = (type: string, data: object) =>
  `event: ${type}\ndata: ${JSON.stringify({ type, ...data })}\n\n`;
const now = () => performance.timeOrigin + performance.now();

function events(model: string, count: number): ReadableStream<Uint8Array> {
  return new ReadableStream({
    async start(controller) {
      const send = (type: string, data: object) => controller.enqueue(Buffer.from(event(type, data)));
      send("message_start", { message: { id: "msg", role: "assistant", model, content: [], usage } });
      for (let n = 0; n < count; n += 1) {
        await Bun.sleep(EVERY_MS);
        send("content_block_delta", { index: 0, delta: { type: "text_delta", text: `@${now()}@` } });
      }
      send("message_delta", { delta: { stop_reason: "end_turn" }, usage });
      send("message_stop", {});
      controller.close();
    },
  });
}

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  idleTimeout: 0,
  async fetch(request) {
    const { model, stream, max_tokens } = (await request.json()) as {
      model: string;
      stream?: boolean;
      max_tokens: number;
    };
    if (stream !== true) return Response.json({ model, role: "assistant", content: [], usage });
    return new Response(events(model, max_tokens), { headers: { "content-type": "text/event-stream" } });
  },
});
console.log(`http://127.0.0.1:${server.port}`);
