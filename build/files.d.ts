/** `with { type: "file" }`: the import's value is the file's path, inside the executable once compiled. */
declare module "*.node" {
  const path: string;
  export default path;
}
