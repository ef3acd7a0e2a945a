import { expect, test } from "bun:test";
import { parseExposition, valueOf } from "../fixtures/exposition.ts";

/* The reader by which metrics are judged must itself refuse what is wrong. */
const good = `# HELP a_total What.
# TYPE a_total counter
a_total{x="q\\"\\\\\\n,}",y="2"} 3
# HELP b_seconds How long.
# TYPE b_seconds histogram
b_seconds_bucket{le="0.1"} 1
b_seconds_bucket{le="+Inf"} 2
b_seconds_sum 0.5
b_seconds_count 2
`;

test("what is right is read", () => {
  const families = parseExposition(good);
  expect(valueOf(families, "a_total", { x: 'q"\\\n,}', y: "2" })).toBe(3);
  expect(valueOf(families, "b_seconds_count")).toBe(2);
  expect(valueOf(families, "b_seconds_bucket", { le: "0.1" })).toBe(1);
  expect(valueOf(families, "a_total", { x: "other" })).toBeNaN();
});

test.each([
  ["a line that does not end", good.trimEnd()],
  ["a sample without a type", good.replace("# TYPE a_total counter\n", "")],
  ["a type without help", good.replace("# HELP a_total What.\n", "")],
  ["a sample of another family", good.replace("a_total{", "c_total{")],
  ["a sample twice", good.replace("b_seconds_sum 0.5", "b_seconds_sum 0.5\nb_seconds_sum 0.5")],
  ["a label that is not closed", good.replace('y="2"', 'y="2')],
  ["a bare quote in a label", good.replace('q\\"', 'q"')],
  ["no number", good.replace("} 3", "} three")],
  ["a counter below zero", good.replace("} 3", "} -3")],
  ["a counter of another name", good.replaceAll("a_total", "a")],
  ["buckets that fall", good.replace('"0.1"} 1', '"0.1"} 3')],
  ["a count that is another", good.replace("_count 2", "_count 3")],
  ["no bucket for the rest", good.replace('b_seconds_bucket{le="+Inf"} 2\n', "")],
  ["no sum", good.replace("b_seconds_sum 0.5\n", "")],
])("%s is refused", (_name, text) => {
  expect(text).not.toBe(good);
  expect(() => parseExposition(text)).toThrow();
});
