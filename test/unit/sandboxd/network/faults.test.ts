import { expect, test } from "bun:test";
import { runId, type InstanceTag } from "../../../../src/ids.ts";
import { networkNames } from "../../../../src/sandboxd/network/names.ts";
import { createRules } from "../../../../src/sandboxd/network/rules.ts";
import { readShown } from "../../../../src/sandboxd/network/shown.ts";
import { aheadIn, faultsIn } from "../../../../src/sandboxd/network/transaction.ts";

const INST = "1f5f" as InstanceTag;
const names = networkNames(INST, runId.schema.parse("run-vyhmsm56s5"));
const rules = createRules({ inst: INST, subnet: "10.42.0.0/16", gatewayPort: 4180 });
const network = { index: 0, host: "10.42.0.1", run: "10.42.0.2" };
const part = rules.part("raw", { names, network, lanes: [] });
const wanted = { base: rules.base("raw", []), parts: part === null ? [] : [part] };

/** As iptables-save has it, with another run beside. */
const TABLE = `*raw
:PREROUTING ACCEPT [0:0]
:CD1f5f-OUT - [0:0]
:CD1f5f-PRE - [0:0]
:CD1f5f-vyhmsm56s5 - [0:0]
:CD1f5f-abcdefghij - [0:0]
[9:9] -A PREROUTING -j CD1f5f-PRE
[9:9] -A OUTPUT -j CD1f5f-OUT
[0:0] -A CD1f5f-OUT -s 10.42.0.0/16 -o cd1f5f+ -p tcp -m tcp --sport 4180:4181 -j CT --notrack
[0:0] -A CD1f5f-PRE -i cd1f5fabcdefghi -g CD1f5f-abcdefghij
[0:0] -A CD1f5f-PRE -i cd1f5fvyhmsm56s -g CD1f5f-vyhmsm56s5
[0:0] -A CD1f5f-PRE -i cd1f5f+ -j DROP
[0:0] -A CD1f5f-PRE -d 10.42.0.0/16 -j DROP
[0:0] -A CD1f5f-PRE -s 10.42.0.0/16 -j DROP
[3:180] -A CD1f5f-vyhmsm56s5 -s 10.42.0.2/32 -d 10.42.0.1/32 -p tcp -m tcp --dport 4180:4181 -j CT --notrack
[3:180] -A CD1f5f-vyhmsm56s5 -s 10.42.0.2/32 -d 10.42.0.1/32 -p tcp -m tcp --dport 4180:4181 -j RETURN
[0:0] -A CD1f5f-vyhmsm56s5 ! -s 10.42.0.2/32 -m comment --comment forged -j DROP
[0:0] -A CD1f5f-vyhmsm56s5 -d 169.254.0.0/16 -m comment --comment metadata -j DROP
[0:0] -A CD1f5f-vyhmsm56s5 -p udp -m udp --dport 53 -m comment --comment dns -j DROP
[0:0] -A CD1f5f-vyhmsm56s5 -p tcp -m tcp --dport 53 -m comment --comment dns -j DROP
[0:0] -A CD1f5f-vyhmsm56s5 -d 10.42.0.0/16 -m comment --comment neighbour -j DROP
[0:0] -A CD1f5f-vyhmsm56s5 -m comment --comment other -j DROP
COMMIT
`;
const faults = (text: string) => faultsIn(wanted, readShown(text, INST).raw);

test("a run's rules as they were made have no fault, whoever else has some", () => {
  expect(faults(TABLE)).toEqual([]);
});

test("each rule of it and of what all have in common is missed", () => {
  const lines = TABLE.split("\n").filter((line) => line.includes("-A ") && !line.includes("abcdefghij"));
  expect(lines).toHaveLength(15);
  for (const line of lines) {
    const without = TABLE.replace(`${line}\n`, "");
    expect([line, faults(without).length]).toEqual([line, 1]);
  }
});

test("the order of a run's own rules counts: the first that fits decides", () => {
  const [first = "", ...rest] = TABLE.split("\n").filter((line) => line.includes("-A CD1f5f-vyhmsm56s5"));
  const turned = TABLE.replace(`${first}\n`, "").replace(rest.at(-1) ?? "", `${rest.at(-1)}\n${first}`);
  expect(faults(turned)).toEqual(["CD1f5f-vyhmsm56s5 is not as it was made"]);
});

test("what was put there and lets something pass is told of, what drops more is not", () => {
  const add = (rule: string) => TABLE.replace("[0:0] -A CD1f5f-PRE", `[0:0] ${rule}\n[0:0] -A CD1f5f-PRE`);
  expect(faults(add("-A CD1f5f-PRE -s 192.0.2.0/24 -j RETURN"))).toEqual([
    "-A CD1f5f-PRE -s 192.0.2.0/24 -j RETURN is nobody's",
  ]);
  expect(faults(add("-A CD1f5f-PRE -i eth7 -j DROP"))).toEqual([]);
});

test("a way in for some packets alone is none", () => {
  const narrow = TABLE.replace("-A PREROUTING -j", "-A PREROUTING -s 192.0.2.0/24 -j");
  expect(faults(narrow)).toEqual(["-A PREROUTING -j CD1f5f-PRE is missing"]);
});

test("a rule before ours is told of, unless it is another instance's way in", () => {
  const ahead = (rule: string) =>
    aheadIn(
      wanted.base,
      readShown(TABLE.replace("[9:9] -A PREROUTING", `[0:0] ${rule}\n[9:9] -A PREROUTING`), INST).raw,
    );
  expect(ahead("-A PREROUTING -i eth0 -j ACCEPT")).toEqual(["-A PREROUTING -i eth0 -j ACCEPT"]);
  expect(ahead("-A PREROUTING -j CD0001-PRE")).toEqual([]);
  expect(ahead("-A FORWARD -j ACCEPT")).toEqual([]);
});
