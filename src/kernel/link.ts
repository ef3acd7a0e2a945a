/** Bun's connect takes a descriptor that is a connected socket already; its types leave that form out. */
type ConnectFd = (options: {
  fd: number;
  socket: { data(socket: unknown, data: Buffer): void; close(): void; error(): void };
}) => Promise<unknown>;

/** Watches a socket from socketPair and owns its descriptor from now on. `closed`: the other side is gone. */
export async function watchLink(
  fd: number,
  on: { readonly data: (data: Buffer) => void; readonly closed: () => void },
): Promise<void> {
  await (Bun.connect as unknown as ConnectFd)({
    fd,
    socket: { data: (_socket, data) => on.data(data), close: on.closed, error: on.closed },
  });
}
