# shellcheck shell=bash
# What this machine is, where this instance lives on it, and whether there is room. Changes nothing.

readonly REGISTRY=/etc/cofferdam/instances

check_host() {
  check_system
  attach_image
  settle_names
  check_image
  check_space
  check_port
  if is_running; then on_undo start_again; fi # so, last of all undoing
}

check_system() {
  [ "$(uname -m)" = x86_64 ] || fail "this machine is $(uname -m)" 'Cofferdam runs on x86-64.'
  local id version
  id=$(os_release ID) version=$(os_release VERSION_ID)
  case $id:${version%%.*} in
    debian:1[2-9] | ubuntu:2[4-9] | ubuntu:[3-9]?) ;;
    *) fail "this is ${id:-no system that says its name} $version" 'Use Debian 12 or newer, or Ubuntu 24.04 or newer.' ;;
  esac
}

os_release() { sed -nE "s/^$1=\"?([^\"]*)\"?$/\1/p" /etc/os-release; }

has_systemd() { [ -d /run/systemd/system ]; }

is_release() { [ -f "$here/SHA256SUMS" ]; }

# What was chosen when this instance was installed holds until an option says otherwise.
settle_names() {
  inst=''
  if [ -e "$data/inst" ]; then
    inst=$(<"$data/inst")
    [[ $inst =~ ^[0-9a-f]{4}$ ]] || fail "$data/inst does not hold four hexadecimal digits" 'Restore it from a backup.'
  fi
  : "${prefix:=$(registered prefix)}"
  : "${prefix:=$DEFAULT_PREFIX}"
  unit_at=$([ -z "$inst" ] || at)
  first_keys=$data/first-keys.json
  program=$prefix/bin/cofferdam
  versions=$prefix/lib/cofferdam
  local file
  for file in "$config" "$data/config.toml"; do
    [[ -n $listen || ! -f $file ]] || listen=$(listen_in "$file")
  done
  : "${listen:=$DEFAULT_LISTEN}"
}

# registered KEY: what was noted of this instance at its last install.
registered() {
  [[ -n $inst && -r $REGISTRY/$inst ]] || return 0
  sed -n "s/^$1=//p" "$REGISTRY/$inst"
}

# at: names this instance's units; empty for the default data directory, "@TAG" for any other.
at() { [ "$data" = "$DEFAULT_DATA" ] || echo "@$inst"; }

check_space() {
  local free want=4000
  ! is_release || want=2000
  free=$(free_mb "$prefix")
  [ "$free" -ge $want ] || fail "$prefix would have $free MB, and $want are needed" 'Make room, or give another --prefix.'
  # Who brings a configuration may have lowered the floor below which nothing is written.
  [ -z "$inst" ] && [ -z "$config" ] || return 0
  free=$(free_mb "$data")
  [ "$free" -ge 1000 ] || fail "$data would have $free MB, and below 512 nothing is written" \
    'Make room, give another --data, or a --config that lowers [quota] disk_floor_mb.'
}

# What is free where PATH is, or will be.
free_mb() { # PATH
  local place=$1
  until [ -d "$place" ]; do place=$(dirname "$place"); done
  echo $((($(stat -f -c '%a * %S' "$place")) >> 20))
}

# Found here rather than when api starts, while nothing has been changed. Our own api may hold the port already.
check_port() {
  [ "$start" = yes ] || return 0
  local port=${listen##*:} pid holder
  pid=$(port_holder "$port")
  [[ -n $pid && $pid != $(api_pid) ]] || return 0
  holder='a process that cannot be seen from here'
  [ "$pid" = unseen ] || holder="process $pid: $(tr '\0' ' ' <"/proc/$pid/cmdline" | cut -c 1-80)"
  fail "port $port is taken by $holder" 'Stop that, or give another address: --listen 127.0.0.1:PORT'
}

# The pid that listens on a TCP port, "unseen", or nothing.
port_holder() { # PORT
  local hex inode fd
  printf -v hex %04X "$((10#$1))"
  inode=$(awk -v port="$hex" '$4 == "0A" && $2 ~ ":" port "$" { print $10; exit }' /proc/net/tcp /proc/net/tcp6)
  [ -n "$inode" ] || return 0
  fd=$(find /proc/[0-9]*/fd -lname "socket:\[$inode\]" -print -quit 2>/dev/null) || :
  [[ $fd =~ ^/proc/([0-9]+)/ ]] && echo "${BASH_REMATCH[1]}" || echo unseen
}
