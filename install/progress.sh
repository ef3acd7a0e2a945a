# shellcheck shell=bash
# Steps, what goes wrong in them, and how it is undone.

current_step='' why='' advice='' failed_command='' child='' work=''
undo=() stage=''

begin() {
  rm -rf /tmp/cofferdam-install.* # of a run that was killed: only one at a time gets here
  work=$(mktemp -d /tmp/cofferdam-install.XXXXXX)
  trap 'finish $?' EXIT
  trap 'failed_command=$BASH_COMMAND' ERR
  trap 'interrupted INT 130' INT
  trap 'interrupted TERM 143' TERM
  trap 'interrupted HUP 129' HUP
}

# Installs of all instances share users and directories. The lock is on a directory, so that nothing of it is left.
one_at_a_time() {
  exec 9</var/lib
  flock -n 9 || { echo 'install.sh: another install.sh is running here; wait until it has ended' >&2; exit 1; }
}

step() { # TITLE FUNCTION
  current_step=$1
  printf '[%4d s] %s\n' "$SECONDS" "$1"
  "$2"
}

note() { printf '         %s\n' "$*"; }

# A command that may take minutes: its output, indented, is the progress, and stays in $work/output. It has a process
# group of its own and is waited for in `wait`, so that a signal reaches it and us at once.
long() { # CMD..
  set -m
  { "$@" 2>&1 </dev/null | tee "$work/output" | sed -u 's/^/         /'; } 9<&- &
  child=$!
  set +m
  local status=0
  wait "$child" || status=$?
  child=''
  return $status
}

fail() { # WHY WHAT-TO-DO
  why=$1 advice=$2
  exit 1
}

# Remembers a command to run, last first, if this run does not reach its end.
on_undo() { undo+=("$(printf '%q ' "$@")"); }

keep_install() { undo=(); }

interrupted() { # SIGNAL STATUS
  why="interrupted by SIG$1" advice='run it again when you like'
  [ -z "$child" ] || end_group "$child"
  exit "$2"
}

# Ends all processes of a group, in the end those too that would not listen.
end_group() { # PID
  local tries
  kill -TERM -- "-$1" 2>/dev/null || :
  for ((tries = 0; tries < 50; tries++)); do
    kill -0 -- "-$1" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL -- "-$1" 2>/dev/null || :
}

finish() { # STATUS
  local status=$1 i
  trap '' INT TERM HUP
  trap - ERR EXIT
  set +e
  if [ "$status" != 0 ]; then
    echo
    echo "install.sh failed at: $current_step"
    echo "  why: ${why:-\`$failed_command\` failed}"
    echo "  do:  ${advice:-see the lines above; run it again when that is put right}"
    for ((i = ${#undo[@]} - 1; i >= 0; i--)); do
      (eval "${undo[i]}") || echo "  could not be undone: ${undo[i]}"
    done
    [ ${#undo[@]} = 0 ] || echo '  What this run had changed was undone.'
  fi >&2
  rm -rf -- "$work"
  exit "$status"
}

# ---------------------------------------------------------------- files, each in place whole or not at all

# Makes a directory and those above it that are missing.
ensure_directory() { # DIR..
  local dir
  for dir; do
    [ ! -d "$dir" ] || continue
    ensure_directory "$(dirname "$dir")"
    on_undo remove_empty "$dir"
    mkdir "$dir"
  done
}

remove_empty() { rmdir --ignore-fail-on-non-empty "$@" 2>/dev/null || :; } # DIR..

# Not in a pipeline or subshell, or undoing would not know of it.
write_file() { # FILE MODE CONTENT
  local new
  if [ -f "$1" ] && [ "$(<"$1")" = "$3" ]; then return; fi
  new=$(mktemp "$1.XXXXXX")
  chmod "$2" "$new"
  printf '%s\n' "$3" >"$new"
  sync "$new"
  remember_file "$1"
  mv -T "$new" "$1"
}

# FILE becomes a symbolic link to TARGET.
write_link() { # TARGET FILE
  [ "$(readlink "$2")" != "$1" ] || return 0
  remember_file "$2"
  ln -sfn "$1" "$2.new"
  mv -T "$2.new" "$2"
  sync "$(dirname "$2")"
}

remember_file() { # FILE
  if [ -e "$1" ] || [ -L "$1" ]; then
    local copy
    copy=$(mktemp -u "$work/old.XXXXXX")
    cp -a "$1" "$copy"
    on_undo mv -T "$copy" "$1"
  else
    on_undo rm -f "$1"
  fi
}
