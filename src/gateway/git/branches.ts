/**
 * The branch that a ref names, as `git push` knows it, or null when it is no branch or has a name that two readers could
 * take for different things: what git allows (git-check-ref-format), of printable ASCII.
 */
export function branchOf(ref: string): string | null {
  const branch = /^refs\/heads\/([!-~]+)$/.exec(ref)?.[1];
  return branch !== undefined && !MALFORMED.test(branch) ? branch : null;
}

const MALFORMED = /[~^:?*[\\]|\.\.|@\{|\/\/|^[-/]|(^|\/)\.|[./]$|\.lock(\/|$)|^@$|^HEAD$/;

/**
 * Whether a pattern covers a branch: `*` is any characters, slashes too, as in a refspec of git's. Not by a
 * regular expression, which many stars would let take forever.
 */
export function coversBranch(pattern: string, branch: string): boolean {
  const at = { pattern: 0, branch: 0 };
  /** Where to go on when what came after the last star does not fit: that star takes one character more. */
  const star = { pattern: -1, branch: 0 };
  while (at.branch < branch.length) {
    if (pattern[at.pattern] === "*") {
      star.pattern = at.pattern;
      star.branch = at.branch;
      at.pattern += 1;
    } else if (pattern[at.pattern] === branch[at.branch]) {
      at.pattern += 1;
      at.branch += 1;
    } else if (star.pattern >= 0) {
      star.branch += 1;
      at.pattern = star.pattern + 1;
      at.branch = star.branch;
    } else return false;
  }
  return /^\**$/.test(pattern.slice(at.pattern));
}
