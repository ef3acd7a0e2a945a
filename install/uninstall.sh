# shellcheck shell=bash
# The way back. Every part may be gone already, so an uninstall that was interrupted is finished by another.

uninstall() {
  step "Looking for what is installed with $data" find_install
  if [ -z "$inst" ]; then
    if [ "$purge" = yes ] && has_image; then # of an install that was killed early
      remove_image
      remove_empty "$data"
    fi
    note 'nothing is'
    return
  fi
  step 'Stopping' remove_services
  step 'Sandboxes' remove_sandboxes
  step 'Data' remove_data
  step 'Program and users' remove_program
  echo
  if [ "$purge" = no ] && [ -d "$data" ]; then
    echo "Cofferdam was removed. Its data and master key stay in $data; --uninstall --purge removes them too."
  else
    echo 'Cofferdam was removed, with its data.'
  fi
}

find_install() {
  attach_image
  settle_names
  # After an interrupted --purge only the registry remembers.
  [ -n "$inst" ] || inst=$(basename "$(grep -lxsF "data=$data" "$REGISTRY"/* | head -n 1)") || :
  unit_at=$(at)
}

remove_services() {
  if has_systemd; then
    systemctl --quiet disable "$(target)" 2>/dev/null || :
    stop_instance 2>/dev/null || :
    (cd "$UNITS" && all_units | xargs rm -f --)
    systemctl daemon-reload
  else
    stop_instance
  fi
}

# Sandboxes end when api does; this is for those that a kill left behind.
remove_sandboxes() {
  local mount
  kill_cgroups
  remove_networks
  while read -r mount; do umount --lazy "$mount"; done < <(own_mounts)
  rm -rf --one-file-system "/run/cofferdam/$inst"
  # All instances' lock, while there is one.
  [ -n "$(find /run/cofferdam -mindepth 1 -maxdepth 1 -type d 2>/dev/null)" ] || rm -f /run/cofferdam/networks.lock
  remove_empty /run/cofferdam
}

kill_cgroups() {
  local dir tries
  for ((tries = 0; tries < 100; tries++)); do
    while read -r dir; do
      xargs -r kill -KILL <"$dir/cgroup.procs" 2>/dev/null || :
      rmdir "$dir" 2>/dev/null || :
    done < <(own_cgroups)
    [ -n "$(own_cgroups)" ] || return 0
    sleep 0.1
  done
  fail "a cgroup does not empty: $(own_cgroups | tail -n 1)" 'Look at its cgroup.procs, then run it again.'
}

own_cgroups() { find /sys/fs/cgroup -depth -type d -path "*/cofferdam-$inst*" 2>/dev/null || :; }

# Of runs that a kill left behind: namespaces, interfaces, rules, and what was made to forward for them.
remove_networks() {
  local name device
  for name in /run/netns/"cd$inst"-*; do
    [ ! -e "$name" ] || ip netns del "${name##*/}"
  done
  # The first namespace with a name made it, somebody else's or ours; the next one makes it again.
  if [ -d /run/netns ] && [ -z "$(ls -A /run/netns)" ]; then
    umount /run/netns 2>/dev/null || :
    remove_empty /run/netns
  fi
  while read -r device; do ip link del "$device" 2>/dev/null || :; done < <(own_interfaces)
  if [ -e "/run/cofferdam/$inst/host/forwarding.json" ] && [ "$(</proc/sys/net/ipv4/ip_forward)" = 0 ]; then
    tr -d '[]"' <"/run/cofferdam/$inst/host/forwarding.json" | tr , '\n' | while read -r device || [ -n "$device" ]; do
      echo 0 2>/dev/null >"/proc/sys/net/ipv4/conf/$device/forwarding" || :
    done
  fi
  command -v iptables-save >/dev/null || return 0
  iptables-save | without_own_chains | iptables-restore --noflush -w 5
}

own_interfaces() { sed -nE "s/^ *(cd${inst}[^:]*):.*/\1/p" /proc/self/net/dev; }

# Of what iptables-save says, the changes that leave nothing of ours: the ways into our chains, then the chains.
without_own_chains() {
  awk -v own="CD$inst-" '
    /^\*/ { print; count = 0 }
    index($0, ":" own) == 1 { print $1, "- [0:0]"; chains[count++] = substr($1, 2) }
    /^-A / && index($2, own) != 1 && $0 ~ " -[jg] " own { sub("-A", "-D"); print }
    /^COMMIT/ { for (i = 0; i < count; i++) print "-X", chains[i]; print }'
}

# Innermost first.
own_mounts() { awk -v dir="/run/cofferdam/$inst/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | tac; }

remove_data() {
  if [ "$purge" = yes ]; then
    # The directory itself may be a file system's root, and then stays.
    remove_image
    [ ! -d "$data" ] || find "$data" -xdev -mindepth 1 -delete
    remove_empty "$data"
  elif [ -d "$data" ]; then
    # Its files' owners are about to be removed; whoever gets their uids next must not come in.
    chmod 700 "$data"
  fi
}

remove_program() {
  if ! others_match "^prefix=$prefix\$"; then
    rm -rf -- "$program" "$versions"
    [ "$prefix" = "$DEFAULT_PREFIX" ] || remove_empty "$prefix/bin" "$prefix/lib" "$prefix"
  fi
  if ! others_match .; then
    local user
    for user in cofferdam cofferdam-gw cofferdam-tenant; do remove_user "$user"; done
  fi
  rm -f "$REGISTRY/$inst"
  remove_empty "$REGISTRY" "$(dirname "$REGISTRY")"
}

# Whether another instance's entry in the registry matches.
others_match() { # PATTERN
  grep -ls -- "$1" "$REGISTRY"/* | grep -qvxF "$REGISTRY/$inst"
}
