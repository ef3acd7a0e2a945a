# shellcheck shell=bash
# The executable, runsc and the root file system. PREFIX/lib/cofferdam/VERSION-DIGEST/ holds each version whole, and
# PREFIX/bin/cofferdam is a link to the executable of the one in force. So switching is one rename, an interrupted upgrade
# leaves the old version working, and processes of the old version find their own files until they end.

stage_release() {
  local verdict large='^\S+ [ *](bin/|lib/cofferdam/(runsc|.*\.erofs)$)'
  [ -z "$runsc" ] || verdict=$("$here/build/probe-runsc" "$runsc" 2>&1) ||
    fail "$runsc will not do: ${verdict#probe-runsc: }" 'Leave --runsc out: the release has one.'
  as_published -v "$large"
  name_version "$here" SHA256SUMS ${runsc:+"$runsc"}
  # Of a version that is in place already, nothing large is used.
  [ "$stage" != "$place" ] || return 0
  as_published "$large"
  new_stage
  cp -a --reflink=auto -- "$here/bin" "$here/lib" "$stage/"
  [ -z "$runsc" ] || install -m 755 "$runsc" "$stage/lib/cofferdam/runsc"
}

# Whether the release's files are what SHA256SUMS says, of those whose lines grep finds.
as_published() { # grep-option.. PATTERN
  (cd "$here" && grep -E "$@" SHA256SUMS | sha256sum --quiet --strict --check) ||
    fail 'this release is not what its SHA256SUMS says' 'Fetch and unpack it again.'
}

stage_build() {
  [ -x "$here/build/all" ] || fail "$here is neither a clone nor an unpacked release" 'Run install.sh where it came from.'
  repair_dpkg
  # shellcheck disable=SC2016
  long bash -c '. "$1/build/cache.sh"; needs ip=iproute2 iptables=iptables' needs "$here" ||
    fail "$(tail -n 1 "$work/output")" 'Install these packages, or give apt a network, and run it again.'
  new_stage
  long "$here/build/all" "$stage" ${runsc:+--runsc "$runsc"} ||
    fail "$(tail -n 1 "$work/output")" 'The lines above say more. What was built is kept: running it again goes on from there.'
  # The manifest has the digests of the root file systems, which are large.
  name_version "$stage" bin/cofferdam lib/cofferdam/{runsc,manifest.json}
}

# A directory beside the final place, where the new version is put together.
new_stage() {
  ensure_directory "$prefix/bin" "$versions"
  rm -rf -- "$versions"/.new.*
  stage=$(mktemp -d "$versions/.new.XXXXXX")
  on_undo rm -rf "$stage"
}

# Sets `place` to where this version belongs and, when it is there already, `stage` to that.
name_version() { # DIR FILE.., which tell one version from another
  local version digest
  version=$(field version "$(<"$1/lib/cofferdam/manifest.json")")
  digest=$(cd "$1" && sha256sum -- "${@:2}" | sha256sum | cut -c 1-12)
  place=$versions/$version-$digest
  [ ! -d "$place" ] || stage=$place
}

# After an apt that was killed in the middle, dpkg refuses everything until this was done.
repair_dpkg() {
  [ -z "$(dpkg --audit)" ] || DEBIAN_FRONTEND=noninteractive long dpkg --configure -a
}

place_program() {
  if [ "$stage" != "$place" ]; then
    chown -R root:root "$stage"
    chmod -R u=rwX,go=rX "$stage"
    find "$stage" -depth -exec sync {} +
    on_undo rm -rf "$place"
    mv -T -- "$stage" "$place"
    sync "$versions"
    stage=$place
  fi
  "$place/bin/cofferdam" version >"$work/version" 2>&1 ||
    fail "the executable does not run here: $(tail -n 1 "$work/version")" 'Is this a CPU with AVX2?'
  note "$(basename "$place")"
  write_link "$place/bin/cofferdam" "$program"
}

# All that no process runs from, the one in force excepted. Other instances may still run an older one.
remove_old_versions() {
  local version used
  used=$(readlink -f "$program" /proc/[0-9]*/exe || :)
  for version in "$versions"/*/ "$versions"/.new.*/; do
    [[ ! -d $version || $used == *"$version"* ]] || rm -rf -- "${version%/}"
  done
}
