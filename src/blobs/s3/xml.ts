/* The few answers of S3 that are XML hold flat lists: no attributes that matter, no element within one of its name. */

const ENTITIES: Readonly<Record<string, string>> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };

/** What stands within each element of this name, in order, as it is written there. */
export function elementsOf(xml: string, name: string): string[] {
  return xml
    .split(`<${name}>`)
    .slice(1)
    .map((rest) => rest.slice(0, Math.max(0, rest.indexOf(`</${name}>`))));
}

/** The text of the first element of this name; null when there is none. */
export function textOf(xml: string, name: string): string | null {
  const [written] = elementsOf(xml, name);
  return written === undefined ? null : decode(written);
}

function decode(written: string): string {
  return written.replace(
    /&(?:#(\d+)|#x([0-9a-fA-F]+)|([a-z]+));/g,
    (all, decimal?: string, hex?: string, name = "") => {
      if (decimal === undefined && hex === undefined) return ENTITIES[String(name)] ?? all;
      const point = decimal === undefined ? Number.parseInt(hex ?? "", 16) : Number(decimal);
      return point <= 0x10ffff ? String.fromCodePoint(point) : all;
    },
  );
}
