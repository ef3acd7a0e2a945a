export type Environment = Readonly<Record<string, string | undefined>>;

/** The process' environment, for who passes it on: configuration (COFFERDAM_*) and what systemd sets. */
export function environment(): Environment {
  return process.env;
}
