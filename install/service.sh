# shellcheck shell=bash
# Units where systemd runs the machine, else one detached `cofferdam serve`.

readonly UNITS=/etc/systemd/system ROLES='sandboxd gateway api'

unit() { echo "cofferdam-$1$unit_at.service"; }     # ROLE
target() { echo "cofferdam$unit_at.target"; }
all_units() {
  local name
  target
  for name in backup prove; do echo "cofferdam-$name$unit_at.timer"; done
  for name in $ROLES backup prove; do unit "$name"; done
}
pid_file() { echo "/run/cofferdam/$inst/serve.pid"; }

# Admin commands go to the instance that is being installed, by its own program.
admin() { "$program" "$1" --data "$data" "${@:2}"; }

place_services() {
  ensure_directory "$REGISTRY"
  write_file "$REGISTRY/$inst" 644 "data=$data"$'\n'"prefix=$prefix"
  has_systemd || return 0
  local source name
  on_undo systemctl daemon-reload
  for source in "$here"/systemd/cofferdam*; do
    name=$(basename "$source")
    write_file "$UNITS/${name%.*}$unit_at.${name##*.}" 644 \
      "$(sed "s|@PREFIX@|$prefix|g; s|@DATA@|$data|g; s|@INST@|$inst|g; s|@AT@|$unit_at|g" "$source")"
  done
  systemctl daemon-reload
  if ! systemctl --quiet is-enabled "$(target)" 2>/dev/null; then
    on_undo systemctl --quiet disable "$(target)"
    systemctl --quiet enable "$(target)"
  fi
}

start_instance() {
  on_undo stop_instance
  if has_systemd; then start_units; else start_detached; fi
}

start_units() {
  local role state deadline=$((SECONDS + 60))
  all_units | xargs systemctl reset-failed 2>/dev/null || :
  systemctl restart "$(target)" 2>/dev/null || :
  for role in $ROLES; do
    # One that failed is started again by systemd, which calls it "activating" until it gives up.
    until state=$(systemctl is-active "$(unit "$role")"); do
      [[ $state = activating && $SECONDS -lt $deadline ]] || unit_failed "$(unit "$role")"
      sleep 0.2
    done
  done
}

unit_failed() { # UNIT
  show_log "$1"
  fail "$1 did not start (its last lines are above)" "$(where_to_look)"
}

# The last lines of what the roles logged.
show_log() { # UNIT..
  if has_systemd; then
    journalctl "${@/#/--unit=}" --lines=15 --output=cat --no-pager 2>/dev/null
  else
    tail -n 15 "$data/log/serve.log"
  fi | sed 's/^/         /'
}

where_to_look() {
  if has_systemd; then
    echo "Look at: journalctl --unit 'cofferdam*'. Then run it again."
  else
    echo "Look at $data/log/serve.log. Then run it again."
  fi
}

start_detached() {
  local log=$data/log/serve.log ready=/run/cofferdam/$inst/ready deadline=$((SECONDS + 60))
  stop_detached
  ensure_directory "$data/log"
  chmod 700 "$data/log"
  rm -f "$ready" # or what the last one said would be read
  env -i PATH="$PATH" LC_ALL=C.UTF-8 setsid "$program" serve --data "$data" --log "$log" \
    --keys-file "$first_keys" </dev/null >"$ready" 2>>"$log" 9<&- &
  echo $! >"$(pid_file)"
  disown
  until grep -qs 'is ready' "$ready"; do
    [ $SECONDS -lt $deadline ] || fail '"cofferdam serve" is not ready after a minute' "$(where_to_look)"
    [ -n "$(serve_pid)" ] || fail "\"cofferdam serve\" ended: $(tail -n 1 "$log")" "$(where_to_look)"
    sleep 0.1
  done
  note "\"cofferdam serve\" runs detached, as process $(<"$(pid_file)"); its log is $log"
  note 'systemd does not run this machine, so after a reboot it has to be started again:'
  note "  setsid $program serve --data $data --log $log </dev/null >>$log 2>&1 &"
}

is_running() { [ -n "$(api_pid)" ]; }

api_pid() {
  local pid=0
  [ -n "$inst" ] || return 0
  ! has_systemd || pid=$(systemctl show --property=MainPID --value "$(unit api)")
  if [ "$pid" = 0 ]; then
    pid=$(serve_pid)
    [ -z "$pid" ] || pid=$(child_of "$pid" api)
  fi
  echo "$pid"
}

# A role's process below the supervisor's.
child_of() { # PID ROLE
  local child
  # Not from /proc/PID/task/PID/children, which misses some while another ends.
  for child in $(grep -slx "PPid:[[:space:]]*$1" /proc/[0-9]*/status | cut -d / -f 3); do
    ! grep -qz "$2" "/proc/$child/cmdline" || echo "$child"
  done
}

# The detached supervisor, if it is alive and really is this instance's.
serve_pid() {
  local pid
  pid=$(cat "$(pid_file)" 2>/dev/null) || return 0
  grep -qzxF -- "$data" "/proc/$pid/cmdline" 2>/dev/null || return 0
  echo "$pid"
}

stop_instance() {
  if has_systemd; then
    all_units | xargs systemctl stop
    all_units | xargs systemctl reset-failed 2>/dev/null || :
  fi
  stop_detached
}

# It finishes the calls in flight, for up to 35 s.
stop_detached() {
  local pid
  pid=$(serve_pid)
  [ -n "$pid" ] || return 0
  kill -TERM "$pid"
  timeout 45 tail --pid="$pid" -f /dev/null || kill -KILL "$pid"
  rm -f "$(pid_file)"
}

# The version that ran before goes on, after all that was new is gone again.
start_again() {
  if has_systemd; then systemctl start "$(target)"; else [ -n "$(serve_pid)" ] || start_detached >/dev/null; fi
}
