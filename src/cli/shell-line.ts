/** What stands behind a `--` as a line for the shell: one word is one already, several are a program and its arguments. */
export function shellLine(words: readonly string[]): string {
  return words.length === 1 ? words.join() : words.map(quoted).join(" ");
}

function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", String.raw`'\''`)}'`;
}
