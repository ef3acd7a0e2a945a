import { expect, test } from "bun:test";
import { listenerAt } from "../../../src/evidence/listening.ts";

const TABLE = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 01002A0A:1054 00000000:0000 0A 00000000:00000000 00:00000000 00000000   995        0 28054333 1 0000000000000000 100 0 0 10 0
   1: 01002A0A:1055 02002A0A:9C40 01 00000000:00000000 00:00000000 00000000   995        0 28054999 1 0000000000000000 20 4 30 10 -1
`;

test("who listens at an address, by the kernel's table", () => {
  expect(listenerAt("10.42.0.1", 4180, TABLE)).toEqual({
    address: "10.42.0.1",
    port: 4180,
    uid: 995,
    inode: "28054333",
  });
});

test("a connection is no listener, and another address or port is another's", () => {
  expect(listenerAt("10.42.0.1", 4181, TABLE)).toBeUndefined();
  expect(listenerAt("10.42.1.1", 4180, TABLE)).toBeUndefined();
});

test("the table of this machine", () => {
  using server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  expect(listenerAt("127.0.0.1", server.port)).toMatchObject({ uid: process.getuid?.() });
});
