/** A piece of a page in which all that came from elsewhere is escaped. */
export interface Html {
  readonly markup: string;
}

/** What is put in is text, unless it is a piece itself; so nothing gets in unescaped by being forgotten. */
export function html(strings: TemplateStringsArray, ...values: readonly (string | Html)[]): Html {
  const filled = values.map((value, index) => {
    const markup = typeof value === "string" ? Bun.escapeHTML(value) : value.markup;
    return markup + (strings[index + 1] ?? "");
  });
  return { markup: (strings[0] ?? "") + filled.join("") };
}
