import { environment } from "../config/environment.ts";
import { DEFAULT_DATA } from "../instance/instance.ts";
import { libraryDirectory } from "../kernel/self.ts";

/** `--data`, which every command takes. */
export const dataArgument = {
  data: {
    type: "string",
    description: "The instance's directory",
    valueHint: "DIR",
    default: environment()["COFFERDAM_DATA"] ?? DEFAULT_DATA,
  },
} as const;

export const libraryArgument = {
  lib: {
    type: "string",
    description: "Where runsc, the images and manifest.json are, when not beside the executable",
    valueHint: "DIR",
  },
} as const;

export function libraryOf(args: { readonly lib?: string | undefined }): string {
  return args.lib ?? environment()["COFFERDAM_LIB"] ?? libraryDirectory();
}
