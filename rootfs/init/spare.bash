# Every shell of a command reads this first (it is its BASH_ENV), so that it can wait, all set up, for the command to come.
# `await` and `proceed` (await.c) put that in the place of the one that bash was started with, and bash then goes on as
# `bash -c COMMAND` does: nothing of this file is left but what the tenant's init.sh has set.
enable -f /usr/lib/cofferdam/await.so await proceed && await || exit 71
unset BASH_ENV

if [[ -f workspace/.trove/init.sh ]]; then
  # It may end this shell: by `exit`, when the trap runs, or by an error such as `${x:?}`, when bash skips the rest of this
  # file and runs what it was started with (confine.c). Either way a fresh shell, with the exports and the directory that
  # this one had, runs the command.
  trap 'exec -a bash /bin/bash -c "$BASH_EXECUTION_STRING"' EXIT
  . workspace/.trove/init.sh </dev/null || :
  trap - EXIT
  set +e +u +o pipefail
  set --
fi

proceed || exit 71
enable -d await proceed
# $_ as a new shell has it.
: bash
