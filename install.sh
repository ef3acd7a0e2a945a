#!/bin/bash
# install.sh: makes this machine a Cofferdam appliance, upgrades it in place, or removes it.
#
#   ./install.sh [options]          install, or upgrade what is there; keys and data are kept
#     --data DIR          the instance's data (default /var/lib/cofferdam); another DIR is another instance beside it
#     --data-image SIZE   put it on a file system of its own that can encrypt, in the file DIR.img of SIZE (20G, say)
#     --prefix DIR        the program goes to DIR/bin and DIR/lib (default /usr/local)
#     --listen HOST:PORT  where the API answers (default 127.0.0.1:8080; beyond this host only with TLS or behind a proxy)
#     --tls-cert FILE     its certificate, PEM, with those that lead to the root
#     --tls-key FILE      the certificate's key
#     --config FILE       take this configuration; it is kept as config.toml in the data directory
#     --keys-file FILE    also write the first workspace's keys to FILE, readable by root only
#     --runsc FILE        use this runsc of gVisor instead of building one
#     --no-start          install, and leave it to you to start it
#     --restore FROM      bring back the appliance whose backups are in FROM, a directory or s3://BUCKET/PREFIX, with
#                         what opens them: --passphrase-file, --identity-file or --master-key FILE; and, as
#                         "cofferdam restore --help" tells, --backup ID, --disable-webhooks, --endpoint URL,
#                         --region NAME, --credentials-file FILE. Only where there is no appliance yet
#   ./install.sh --uninstall [--purge] [--data DIR]
#                                   remove it; the data stays unless --purge
#
# From a clone it builds everything first; from a release archive it only checks and copies, without a network.
# Needs root (it asks sudo), on Debian 12 or newer or Ubuntu 24.04 or newer, x86-64. An install that fails or is
# interrupted undoes what it did; one that was killed is put right by running it again.
# Exit: 0 done, 1 failed, 2 wrong arguments (nothing was changed).
set -Eeuo pipefail
shopt -s inherit_errexit
umask 022
export LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
readonly here
# shellcheck source=install/arguments.sh
. "$here/install/arguments.sh"
# shellcheck source=install/progress.sh
. "$here/install/progress.sh"
# shellcheck source=install/host.sh
. "$here/install/host.sh"
# shellcheck source=install/program.sh
. "$here/install/program.sh"
# shellcheck source=install/image.sh
. "$here/install/image.sh"
# shellcheck source=install/data.sh
. "$here/install/data.sh"
# shellcheck source=install/service.sh
. "$here/install/service.sh"
# shellcheck source=install/first.sh
. "$here/install/first.sh"
# shellcheck source=install/uninstall.sh
. "$here/install/uninstall.sh"

main() {
  parse_arguments "$@"
  become_root "$@"
  one_at_a_time
  begin
  if [ "$action" = uninstall ]; then
    uninstall
    return
  fi
  step 'Checking this host' check_host
  if is_release; then
    step 'Checking the release' stage_release
  else
    step 'Building (the first time takes some minutes)' stage_build
  fi
  step 'Users' make_users
  [ -z "$data_image" ] || step 'Data image' make_image
  step 'Data directory and master key' make_data
  [ -z "$restore" ] || step "Restoring from $restore" restore_data
  step 'Configuration' place_configuration
  step 'Program' place_program
  step 'Services' place_services
  if [ "$start" = yes ]; then
    step 'Starting' start_instance
    step 'Workspace and keys' ensure_keys
    # In a restored appliance the first command is its users'.
    [ -n "$restore" ] || step 'First command, in gVisor' run_main_job
  fi
  keep_install
  remove_old_versions
  next_steps
}

# Copied to memory whole before it runs, so that an upgrade of this clone in the middle changes nothing.
main "$@"
exit
