import { expect, test } from "bun:test";
import { parseBody, withKey } from "../../../../src/gateway/llm/body.ts";
import { seededRandom } from "../../../fixtures/random.ts";

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);
const parse = (text: string) => parseBody(Buffer.from(text));

test("one more key, and all else as it was", () => {
  const text = ' { "big" : 12345678901234567890, "a":1.0}';
  expect(withKey(parse(text), "n", 5).text).toBe(' {"n":5, "big" : 12345678901234567890, "a":1.0}');
  expect(withKey(parse("{ }"), "n", { a: 1 }).text).toBe('{"n":{"a":1} }');
  // Where it stands already, it is replaced there, and only there.
  const again = ' {"x":{"n":1,"s":"\\"n\\":2,}"}, "n" : [{"n":[1,"]}"]}] ,"big":12345678901234567890}';
  expect(withKey(parse(again), "n", 5).text).toBe(
    ' {"x":{"n":1,"s":"\\"n\\":2,}"}, "n" :5,"big":12345678901234567890}',
  );
  for (const text of ['{"n":null}', '{"n" : 1.5e3 }', '{"a":1,"n":"x,}"}', '{"\\u006e":{}}']) {
    expect(JSON.parse(withKey(parse(text), "n", 5).text)).toMatchObject({ n: 5 });
  }
});

test(`any JSON without a key twice passes, and none with one, SEED=${seed}`, () => {
  const dice = seededRandom(seed);
  const strings = [
    "",
    "a",
    '"',
    "\\",
    '\\"',
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "é",
    "\n",
    "model",
    '{"a":1,"a":2}',
    "a\\",
  ];
  const pick = () => `${strings[dice.int(strings.length)]}${strings[dice.int(strings.length)]}`;
  const make = (depth: number): unknown => {
    const kind = dice.int(depth > 4 ? 3 : 6);
    if (kind === 0) return pick();
    if (kind === 1) return dice.int(1000) / 7;
    if (kind === 2) return null;
    if (kind === 3) return Array.from({ length: dice.int(4) }, () => make(depth + 1));
    return Object.fromEntries(Array.from({ length: dice.int(5) }, () => [pick(), make(depth + 1)]));
  };
  for (let n = 0; n < 500; n += 1) {
    const inner = make(0);
    const key = `k${pick()}`;
    for (const space of [0, 1]) {
      const text = JSON.stringify({ inner, list: [{ [key]: 1, other: inner }] }, null, space);
      expect(parse(text).json["list"]).toBeDefined();
      // The same key once more, right at that object's end.
      const at = text.lastIndexOf("}", text.length - 2);
      const twice = `${text.slice(0, at)},${JSON.stringify(key)}:2${text.slice(at)}`;
      expect(() => parse(twice)).toThrow("twice");
    }
  }
});

test("few bytes with very many values are refused before anything is made of them", () => {
  const taken: number[] = [];
  const take = (bytes: number) => void taken.push(bytes);
  for (const value of ["{}", "[]", "0", '""', '{"a":[]}', "[[[[]]]]"]) {
    const list = (count: number) => Buffer.from(`{"model":"m","x":[${Array(count).fill(value).join(",")}]}`);
    expect(() => parseBody(list(200_001), take)).toThrow("values");
    expect(taken).toEqual([]);
    parseBody(list(10), take);
    expect(taken.splice(0)[0]).toBeWithin(10 * 64, 100 * 64);
  }
  const names = Array.from({ length: 100_000 }, (_, n) => `"${`${n}`.padStart(200, "k")}":0`);
  expect(() => parseBody(Buffer.from(`{${names.join(",")}}`), take)).toThrow("values");
  // What stands in a text is none.
  expect(parse(JSON.stringify({ x: "[{,".repeat(200_000) })).json).toBeDefined();
  for (const broken of ['{"a', '{"a\\"', '"', '{"a":"b\\"}', "{,,"])
    expect(() => parse(broken)).toThrow("not JSON");
});
