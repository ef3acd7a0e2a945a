# shellcheck shell=bash disable=SC2034
# The command line. Everything wrong with it is found here, before anything is touched.

readonly DEFAULT_DATA=/var/lib/cofferdam DEFAULT_PREFIX=/usr/local DEFAULT_LISTEN=127.0.0.1:8080

parse_arguments() {
  action=install data=$DEFAULT_DATA prefix='' listen='' keys_file='' data_image='' config='' runsc='' tls_cert='' tls_key='' start=yes purge=no
  restore='' restore_options=()
  while [ $# -gt 0 ]; do
    case $1 in
      --data | --data-image | --prefix | --listen | --keys-file | --config | --runsc | --tls-cert | --tls-key | --restore)
        [ -n "${2:-}" ] || wrong "$1 wants a value"
        local name=${1#--}
        printf -v "${name//-/_}" %s "$2"
        shift 2
        ;;
      --backup | --passphrase-file | --identity-file | --master-key | --endpoint | --region | --credentials-file)
        [ -n "${2:-}" ] || wrong "$1 wants a value"
        restore_options+=("$1" "$2")
        shift 2
        ;;
      --disable-webhooks) restore_options+=("$1"); shift ;;
      --no-start) start=no; shift ;;
      --uninstall) action=uninstall; shift ;;
      --purge) purge=yes; shift ;;
      -h | --help) sed -n '2,/^set /{/^set /!s/^# \?//p}' "$here/install.sh"; exit 0 ;;
      *) wrong "unknown argument '$1'" ;;
    esac
  done
  [ "$purge" = no ] || [ "$action" = uninstall ] || wrong '--purge goes with --uninstall'
  [ -n "$restore" ] || [ ${#restore_options[@]} = 0 ] || wrong "${restore_options[0]} goes with --restore"
  chosen_listen=$listen
  [[ -z $data_image || $action = install ]] || wrong '--data-image goes with an install'
  data=$(directory_path --data "$data")
  [ -z "$data_image" ] || data_image=$(size_mb --data-image "$data_image")
  [ -z "$prefix" ] || prefix=$(directory_path --prefix "$prefix")
  [ -z "$config" ] || config=$(readable_file --config "$config")
  [[ -n $tls_cert && -n $tls_key || -z $tls_cert$tls_key ]] || wrong '--tls-cert and --tls-key go together'
  [ -z "$tls_cert" ] || tls_cert=$(certificate_file --tls-cert "$tls_cert")
  [ -z "$tls_key" ] || tls_key=$(certificate_file --tls-key "$tls_key")
  [ -z "$listen" ] || check_listen "$listen"
  [ -z "$runsc" ] || runsc=$(readable_file --runsc "$runsc")
  [ -z "$keys_file" ] || keys_file=$(writable_file --keys-file "$keys_file")
}

wrong() {
  echo "install.sh: $1 (./install.sh --help tells more)" >&2
  exit 2
}

# Paths end up in unit files and commands, so only what means itself there is allowed.
directory_path() { # OPTION PATH
  local path
  path=$(realpath -m -- "$2")
  [[ ! -e $path || -d $path ]] || wrong "$1: $path is no directory"
  [[ $path =~ ^(/[A-Za-z0-9._-]+)+$ ]] || wrong "$1: '$path' may have only letters, digits and . _ - in its names"
  echo "$path"
}

size_mb() { # OPTION SIZE
  local mb
  [[ $2 =~ ^([1-9][0-9]{0,5})([MGT])$ ]] || wrong "$1: '$2' is not a size such as 20G"
  mb=${BASH_REMATCH[1]}
  case ${BASH_REMATCH[2]} in G) mb=$((mb << 10)) ;; T) mb=$((mb << 20)) ;; esac
  [ "$mb" -ge 1024 ] || wrong "$1: it takes 1G or more, not $2"
  echo "$mb"
}

readable_file() { # OPTION PATH
  [[ -f $2 && -r $2 ]] || wrong "$1: there is no file $2 to read"
  realpath -- "$2"
}

writable_file() { # OPTION PATH
  [ -d "$(dirname -- "$2")" ] || wrong "$1: there is no directory $(dirname -- "$2")"
  [ ! -d "$2" ] || wrong "$1: $2 is a directory"
  realpath -m -- "$2"
}

# Not what a link leads to: certbot's lead to another file after each renewal.
certificate_file() { # OPTION PATH
  local path
  [[ -f $2 && -r $2 ]] || wrong "$1: there is no file $2 to read"
  path=$(realpath -s -- "$2")
  [[ ! $path =~ [\"\\[:cntrl:]] ]] || wrong "$1: '$path' may have no quotes and backslashes in its name"
  echo "$path"
}

check_listen() { # HOST:PORT
  [[ $1 =~ ^([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]):0*([0-9]{1,5})$ ]] ||
    wrong "--listen: '$1' is not HOST:PORT, such as $DEFAULT_LISTEN"
  local host=${BASH_REMATCH[1]} port=${BASH_REMATCH[2]}
  [[ $port -ge 1 && $port -le 65535 ]] || wrong "--listen: the port is one of 1 to 65535, not $port"
  # A configuration may have what it takes; it is checked later.
  [[ $host =~ ^(localhost|127\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}|\[::1\])$ || -n $tls_cert$config || -e $data/config.toml ]] ||
    wrong "--listen: $1 would serve keys and files in the clear beyond this host; give --tls-cert and --tls-key, or a --config with [http] behind_proxy"
}

become_root() {
  [ "$(id -u)" != 0 ] || return 0
  if command -v sudo >/dev/null; then exec sudo -- "$here/install.sh" "$@"; fi
  echo 'install.sh: it has to be run as root, and there is no sudo here' >&2
  exit 1
}
