import { AppError, codeOf } from "../errors.ts";
import { refusedPath, type WorkspacePath } from "./path.ts";

/** What the kernel said of a caller's path, as what the caller may know. Anything else stays what it is: a 500. */
export function fileFailure(error: unknown, path: WorkspacePath): unknown {
  switch (codeOf(error)) {
    case "ENOENT":
    case "ENOTDIR":
      return new AppError("not_found", `There is no ${path.text}.`, { cause: error });
    // Out of the workspace, a loop of links, or a name that only became too long by following one.
    case "EXDEV":
    case "ELOOP":
    case "ENAMETOOLONG":
      return refusedPath(error);
    case "EISDIR":
    case "ENOTEMPTY":
    case "EEXIST":
      return new AppError("conflict", `${path.text} is a directory.`, { cause: error });
    // A socket, or a device that nothing serves.
    case "ENXIO":
    case "ENODEV":
      return notRegular(path);
    // The kernel's word for "renamed under my hands too often".
    case "EAGAIN":
    case "ESTALE":
      return new AppError("conflict", `${path.text} is being moved; try again.`, { cause: error });
    case "ENOSPC":
    case "EDQUOT":
      return new AppError("no_space", "The disk is full; delete something and try again.", { cause: error });
    case "EFBIG":
      return new AppError("too_large", "The file system cannot hold a file that large.", { cause: error });
    case "EMFILE":
    case "ENFILE":
      return new AppError("unavailable", "The appliance has too many files open; try again soon.", {
        retryAfterS: 1,
        cause: error,
      });
    case undefined:
    default:
      return error;
  }
}

export function notRegular(path: WorkspacePath): AppError {
  return new AppError("bad_input", `${path.text} is neither a file nor a directory; delete it or use exec.`);
}
