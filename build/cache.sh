# shellcheck shell=bash
# Sourced by the build scripts. A script's stdout is its result (one path); progress goes to stderr.
# Whatever is slow to make is kept in the cache under a key of all that it was made from.
set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C.UTF-8
# The roles' users read and run what is built.
umask 022

cache=${COFFERDAM_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/cofferdam}

say() { printf '%s\n' "$*" >&2; }

# fail WHAT HINT..: one line that says what is wrong and what to do.
fail() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# digest_of FILE..: one SHA-256 over the contents, in the order given.
digest_of() { cat -- "$@" | sha256sum | cut -c1-64; }

# file_digest FILE: its SHA-256.
file_digest() { sha256sum <"$1" | cut -c1-64; }

# cached KIND KEY MAKE..: prints the path CACHE/KIND/KEY, and makes it first with `MAKE.. OUT` when it is not there.
# MAKE builds in a directory of its own, and only a finished result is renamed into place; builders of one kind wait
# for each other. What a killed build left is removed by the next one, and what nobody used for three days too (an executable or an image is large, and every commit makes one).
cached() (
  kind=$1 key=$2
  shift 2
  entry=$cache/$kind/$key
  mkdir -p "$cache/$kind"
  if [ ! -e "$entry" ]; then
    exec 9>"$cache/$kind/.lock"
    flock -n 9 || {
      say "  waiting for another build of $kind"
      flock 9
    }
    if [ ! -e "$entry" ]; then
      rm -rf --one-file-system "$cache/$kind"/.making.*
      making=$(mktemp -d "$cache/$kind/.making.XXXXXX")
      trap 'rm -rf --one-file-system "$making"' EXIT
      "$@" "$making/out" >&2
      # Where cached is part of a condition, bash goes on after a failure.
      [ -e "$making/out" ] || exit 1
      find "$cache/$kind" -mindepth 1 -maxdepth 1 ! -name '.*' -mtime +2 -exec rm -rf --one-file-system {} +
      mv -T "$making/out" "$entry"
    fi
  fi
  touch -c "$entry"
  printf '%s\n' "$entry"
)

# tries N CMD..: for what a flaky mirror can break; the pause grows.
tries() {
  local left=$1 pause=3
  shift
  until "$@"; do
    left=$((left - 1))
    [ "$left" -gt 0 ] || return 1
    say "  failed, trying again in ${pause} s: $1"
    sleep "$pause"
    pause=$((pause * 3))
  done
}

# needs COMMAND=PACKAGE..: installs the packages of the commands that are missing.
needs() {
  local pair missing=()
  for pair; do
    command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || fail "missing: ${missing[*]}. Install them and run this again."
  [ "$(id -u)" = 0 ] || fail "missing: ${missing[*]}. Run as root: apt-get install ${missing[*]}"
  say "Installing packages: ${missing[*]}"
  apt_install "${missing[@]}" 2>/dev/null && return
  tries 3 apt-get -qq -o DPkg::Lock::Timeout=300 update >&2 || fail "apt-get update failed: is the network there?"
  apt_install "${missing[@]}" >&2 || fail "apt-get could not install: ${missing[*]}"
}

# Prints only what went wrong. Another apt on the machine (its own timers, at first boot) holds the lock for a while.
apt_install() (
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 \
    install --no-install-recommends "$@" >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    return 1
  }
)
