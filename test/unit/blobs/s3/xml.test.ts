import { expect, test } from "bun:test";
import { elementsOf, textOf } from "../../../../src/blobs/s3/xml.ts";

test("elements in order, and the text of the first, with its entities", () => {
  const xml =
    "<L><C><K>a&amp;b</K><S>1</S></C><C><K>&quot;&#65;&#x42;&lt;&unknown;</K></C><Empty></Empty><None/></L>";
  expect(elementsOf(xml, "C").map((element) => textOf(element, "K"))).toEqual(["a&b", '"AB<&unknown;']);
  expect([textOf(xml, "S"), textOf(xml, "Empty"), textOf(xml, "None"), textOf(xml, "X")]).toEqual([
    "1",
    "",
    null,
    null,
  ]);
});

test("what is cut short, or no XML at all, throws nothing", () => {
  for (const text of ["", "<K>", "<K>half", "</K><K>", "<K>&#99999999;&#xffffffff;</K>", "<<K>>"]) {
    expect(typeof (textOf(text, "K") ?? "")).toBe("string");
  }
});
