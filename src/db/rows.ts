import type { InStatement, ResultSet, Value } from "@libsql/client/sqlite3";

/** As clients and transactions of both kinds execute. */
export interface Reader {
  execute(statement: InStatement): Promise<ResultSet>;
}

interface Table {
  readonly name: string;
  readonly columns: readonly string[];
  /** What orders its rows. */
  readonly key: readonly string[];
}

/** Of one page: well below what a server sends in one answer. */
const PAGE = 200;

/** The tables that migrations make, those first that others refer to. */
export async function tablesOf(from: Reader): Promise<Table[]> {
  const { rows } = await from.execute(
    `SELECT s.name, l.wr,
       (SELECT json_group_array(json_array(c.name, c.pk)) FROM pragma_table_info(s.name) AS c) AS columns
     FROM sqlite_schema AS s JOIN pragma_table_list(s.name) AS l ON l.schema = 'main'
     WHERE s.type = 'table' AND s.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND s.name NOT IN ('migrations', 'claim')
     ORDER BY s.rowid`,
  );
  return rows.map((row) => {
    const columns = JSON.parse(row["columns"] as string) as [string, number][];
    const primary = columns.filter(([, place]) => place > 0).toSorted(([, a], [, b]) => a - b);
    const names = columns.map(([name]) => name);
    // Rows of one moment are shown in the order in which they came.
    return row["wr"] === 1
      ? { name: row["name"] as string, columns: names, key: primary.map(([name]) => name) }
      : { name: row["name"] as string, columns: ["rowid", ...names], key: ["rowid"] };
  });
}

/** All rows of a table, a page at a time. */
export async function* pagesOf(from: Reader, table: Table): AsyncGenerator<readonly (readonly Value[])[]> {
  const columns = table.columns.map(quoted).join(", ");
  const key = table.key.map(quoted).join(", ");
  const places = table.key.map((name) => table.columns.indexOf(name));
  let after: Value[] | null = null;
  for (;;) {
    const marks = table.key.map(() => "?").join(", ");
    const { rows }: ResultSet = await from.execute({
      sql: `SELECT ${columns} FROM ${quoted(table.name)} ${after === null ? "" : `WHERE (${key}) > (${marks})`}
            ORDER BY ${key} LIMIT ${PAGE}`,
      args: after ?? [],
    });
    const page = rows.map((row) => table.columns.map((_, index) => row[index] ?? null));
    if (page.length > 0) yield page;
    const last = page.at(-1);
    if (last === undefined || page.length < PAGE) return;
    after = places.map((place) => last[place] ?? null);
  }
}

export function insertion(table: Table, row: readonly Value[]): InStatement {
  const marks = row.map(() => "?").join(", ");
  const columns = table.columns.map(quoted).join(", ");
  return { sql: `INSERT INTO ${quoted(table.name)} (${columns}) VALUES (${marks})`, args: [...row] };
}

export function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}
