import { afterAll, beforeAll, expect, test } from "bun:test";
import type { RunId } from "../../../../src/ids.ts";
import { withinNetwork } from "../../../../src/kernel/network-namespace.ts";
import { box } from "../run/stage.ts";
import { refusal } from "../stage.ts";
import { PORT, sh } from "./stage.ts";

/* What a command of a run reaches, from inside gVisor. What raw frames reach, and without the walls, walls.test.ts shows. */
const FAR = { host: "8.8.4.1", address: "8.8.4.4" };
const LAN = "192.0.2.1";
let at: Awaited<ReturnType<typeof box>>;
const servers: { stop(now: boolean): void }[] = [];

beforeAll(async () => {
  at = await box();
  sh(`
    ip netns add far; ip link add far0 type veth peer name eth0 netns far
    ip addr add ${FAR.host}/24 dev far0; ip addr add ${LAN}/24 dev far0; ip link set far0 up
    ip -n far addr add ${FAR.address}/24 dev eth0; ip -n far link set eth0 up
    ip addr add 169.254.169.254/32 dev lo`);
  const open = (socket: { end(text: string): void; remoteAddress: string }) => {
    socket.end(socket.remoteAddress);
  };
  const listen = (port: number) => {
    servers.push(Bun.listen({ hostname: "0.0.0.0", port, socket: { data() {}, open } }));
  };
  for (const port of [PORT, PORT + 1, 8081, 80, 53]) listen(port);
  withinNetwork("/run/netns/far", () => listen(5432));
}, 300_000);
afterAll(async () => {
  for (const server of servers) server.stop(true);
  sh("ip link del far0; ip netns del far; ip addr del 169.254.169.254/32 dev lo");
  expect(await at.end()).toEqual([]);
});

/** Prints for each address and port as whom it is seen there, or the error. */
const calls = (targets: readonly string[]) => `cat >/tmp/calls.py <<'END'
import concurrent.futures, json, socket
def call(target):
    host, port = target.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=1) as s:
            return s.recv(100).decode()
    except Exception as error:
        return type(error).__name__
targets = ${JSON.stringify(targets)}
local = socket.create_server(("127.0.0.1", 4000))
socket.create_connection(("localhost", 4000), timeout=1).close()
with concurrent.futures.ThreadPoolExecutor(32) as pool:
    print(json.dumps(dict(zip(targets, pool.map(call, targets)))))
END
python3 /tmp/calls.py`;

async function networkOf(run: RunId) {
  const state = await at.client.call("inspectRun", { run });
  if (state.state !== "running") throw new Error(state.state);
  return state.network;
}

test("a command reaches its own gateway and its lanes, and nothing else; what it tried is counted", async () => {
  const [run, neighbour] = [await at.boot(), await at.boot()];
  const [own, other] = [await networkOf(run.id), await networkOf(neighbour.id)];
  const gateway = [`${own.host}:${PORT}`, `${own.host}:${PORT + 1}`];
  const lane = `${FAR.address}:5432`;
  const forbidden = [
    `${own.host}:8081`,
    `${LAN}:8081`,
    `${LAN}:${PORT}`,
    `${other.host}:${PORT}`,
    `${other.host}:${PORT + 1}`,
    `${other.run}:22`,
    "169.254.169.254:80",
    `${own.host}:53`,
    `${LAN}:53`,
    `${FAR.address}:5433`,
    "1.1.1.1:443",
    // Nobody answers DNS: that is known at once, and not after a timeout.
    "example.com:443",
    "::1:4180",
    "2606:4700::1111:443",
  ];
  await at.admit(run, { direct: [{ address: FAR.address, port: 5432 }] });
  run.sh(calls([...gateway, lane, ...forbidden]));
  const { dropped = [] } = await at.fate(run);
  const answers = JSON.parse(run.output().out) as Record<string, string>;
  const answered = Object.entries(answers).filter(([, answer]) => !/error|timeout/i.test(answer));
  expect(Object.fromEntries(answered)).toEqual({
    ...Object.fromEntries(gateway.map((target) => [target, own.run])),
    [lane]: FAR.host,
  });
  expect(Object.keys(answers)).toHaveLength(gateway.length + 1 + forbidden.length);
  expect(dropped.map(({ reason }) => reason).toSorted()).toEqual(["dns", "metadata", "neighbour", "other"]);
  await at.forget(run);

  // A lane is one run's.
  await at.admit(neighbour);
  neighbour.sh(calls([`${other.host}:${PORT}`, lane]));
  await at.fate(neighbour);
  expect(JSON.parse(neighbour.output().out)).toEqual({
    [`${other.host}:${PORT}`]: other.run,
    [lane]: expect.stringMatching(/error|timeout/i),
  });
  await at.forget(neighbour);
}, 60_000);

test("with a subnet that is in use: a chosen one stops the start, with the usual one only runs are refused", async () => {
  sh("ip route add 10.77.3.0/24 dev far0");
  expect(await refusal(box({ runs: { subnet: "10.77.0.0/16" } }))).toContain(
    '[runs] subnet = "10.77.0.0/16" overlaps this host\'s route to 10.77.3.0/24 (far0); set it to a private network',
  );
  sh("ip route del 10.77.3.0/24; ip route add 10.42.3.0/24 dev far0");
  const usual = await box();
  // What this host's routes are is the operator's to know.
  expect(await refusal(usual.boot())).toContain("The server's log says why");
  expect(usual.logged.join("")).toContain("overlaps this host's route to 10.42.3.0/24 (far0)");
  sh("ip route del 10.42.3.0/24");
  expect((await usual.ran("echo well")).out).toBe("well\n");
  expect(await usual.end()).toEqual([]);
}, 60_000);
