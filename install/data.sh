# shellcheck shell=bash
# Users, the data directory and its configuration.

readonly TENANT_UID=10000 # and gid; also in the sandboxes

make_users() {
  ensure_user cofferdam --comment 'Cofferdam API' --user-group
  ensure_user cofferdam-gw --comment 'Cofferdam gateway' --user-group
  free_for_tenant passwd usermod --uid
  free_for_tenant group groupmod --gid
  ensure_group cofferdam-tenant --gid $TENANT_UID
  ensure_user cofferdam-tenant --comment 'Cofferdam sandboxes' --uid $TENANT_UID --gid $TENANT_UID --key SYS_UID_MAX=$TENANT_UID
}

# Someone else with the tenants' number would own their files.
free_for_tenant() { # DATABASE COMMAND OPTION
  local holder
  holder=$(getent "$1" $TENANT_UID | cut -d: -f1) || :
  [[ -z $holder || $holder = cofferdam-tenant ]] ||
    fail "$holder has the number $TENANT_UID in $1, which the files of Cofferdam's tenants have" \
      "Give it another ($2 $3 NUMBER $holder), and its files outside its home to that."
}

ensure_user() { # NAME useradd-option..
  ! getent passwd "$1" >/dev/null || return 0
  on_undo remove_user "$1"
  useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "${@:2}" "$1"
}

ensure_group() { # NAME groupadd-option..
  ! getent group "$1" >/dev/null || return 0
  on_undo remove_user "$1"
  groupadd --system --key SYS_GID_MAX=$TENANT_UID "${@:2}" "$1"
}

remove_user() { # NAME
  ! getent passwd "$1" >/dev/null || userdel "$1"
  ! getent group "$1" >/dev/null || groupdel "$1"
}

make_data() {
  ensure_directory "$data"
  [ -n "$inst" ] || on_undo forget_instance
  take_data_back
  local known=$inst
  prepare
  inst=$(<"$data/inst")
  unit_at=$(at)
  [[ -z $data_image || -n $known ]] || try_image
}

prepare() { # option..
  "$stage/bin/cofferdam" prepare --data "$data" "$@" 2>"$work/prepare" ||
    fail "$(tail -n 1 "$work/prepare")" 'Put that right and run it again.'
}

# Before the configuration is looked at, since a backup brings one. One that was killed in the middle is gone on with.
restore_data() {
  if [ -e "$data/restored" ]; then
    note "$(head -n 1 "$data/restored") is in $data already; nothing is restored over it"
  else
    long "$stage/bin/cofferdam" restore "$restore" --data "$data" "${restore_options[@]}" ||
      fail "$(tail -n 1 "$work/output")" 'Put that right and run it again.'
  fi
  : "${chosen_listen:=$(listen_in "$data/config.toml" 2>/dev/null)}"
  listen=${chosen_listen:-$DEFAULT_LISTEN}
}

# What a first install that failed had made. No tenant's file can be among it: nobody was given a key.
forget_instance() {
  [ -z "$inst" ] || remove_sandboxes
  (cd "$data" && rm -rf -- inst master.key keyring gateway.key config.toml api gateway log first-keys.json restore restored .new-*)
}

# Data that an uninstall kept belongs to users that were removed; they may have other uids now.
take_data_back() {
  own_again "$data/api" cofferdam
  own_again "$data/gateway" cofferdam-gw
}

own_again() { # DIR USER
  local old
  [ -d "$1" ] || return 0
  old=$(stat -c %u "$1")
  [ "$old" = "$(id -u "$2")" ] || chown -hR --from="$old" "$2:$2" "$1"
}

place_configuration() {
  local new=$work/config.toml
  if [ -n "$config" ]; then
    cp -- "$config" "$new"
  elif [ -e "$data/config.toml" ]; then
    cp -- "$data/config.toml" "$new"
  else
    : >"$new"
  fi
  local before
  before=$(listen_in "$new")
  [ "$listen" = "${before:-$DEFAULT_LISTEN}" ] || set_http listen "$listen" "$new"
  if [ -n "$tls_cert" ]; then
    set_http tls_cert "$tls_cert" "$new"
    set_http tls_key "$tls_key" "$new"
  fi
  "$stage/bin/cofferdam" config check "$new" >"$work/check" 2>&1 ||
    fail "the configuration is wrong: $(tail -n 1 "$work/check" | sed "s|$new|${config:-$data/config.toml}|")" "Correct ${config:-$data/config.toml} and run it again."
  note "the API will listen on $listen"
  [[ ! -s $new && ! -e $data/config.toml ]] || write_file "$data/config.toml" 644 "$(<"$new")"
}

# The value of `listen` in the [http] section, or nothing.
listen_in() { # FILE
  awk '/^[ \t]*\[/ { http = /^[ \t]*\[http\]/ }
    http && /^[ \t]*listen[ \t]*=/ { split($0, part, "\""); print part[2]; exit }' "$1"
}

# Puts a text into the [http] section, in place of the one there.
set_http() { # KEY VALUE FILE
  awk -v key="$1" -v line="$1 = \"$2\"" '
    /^[ \t]*\[/ { http = /^[ \t]*\[http\]/ }
    http && $0 ~ "^[ \t]*" key "[ \t]*=" { next }
    { print }
    http && /^[ \t]*\[http\]/ { print line; set = 1 }
    END { if (!set) print "[http]\n" line }' "$3" >"$3.set"
  mv -- "$3.set" "$3"
}
