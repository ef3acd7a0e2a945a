/** `with { type: "file" }`: the import's value is the file's path, inside the executable once compiled. */
declare module "*.node" {
  const path: string;
  export default path;
}

/** `with { type: "text" }`: the import's value is what is in the file. */
declare module "*.py" {
  const text: string;
  export default text;
}
