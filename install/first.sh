# shellcheck shell=bash
# The first workspace and its keys, the first command, and what to do next.

# Keys are shown once, at the end. Until then they wait in a file of root's, so that an install which is killed in
# between still shows them when it is run again. (serve makes them itself, into the same file.)
ensure_keys() {
  ! has_systemd || admin setup --keys-file "$first_keys" >"$work/setup" 2>&1 ||
    fail "the first keys were not made: $(tail -n 1 "$work/setup")" "$(where_to_look)"
  keys='' workspace_key=''
  if [ -e "$first_keys" ]; then
    keys=$(<"$first_keys")
    workspace_key=$(field workspace_key "$keys")
  else
    note 'there are keys already, which were shown when they were made'
    [ -z "$keys_file" ] || note 'so --keys-file writes nothing; for another key: cofferdam key create NAME'
    [[ ! -r $keys_file ]] || workspace_key=$(field workspace_key "$(<"$keys_file")")
  fi
}

# The value of a string in a JSON object that has no such name deeper in it.
field() { # NAME JSON
  [[ $2 =~ \"$1\"[[:space:]]*:[[:space:]]*\"([^\"]*)\" ]] && echo "${BASH_REMATCH[1]}"
}

# What the appliance is for, done as a client does it.
run_main_job() {
  # shellcheck disable=SC2016
  local command='echo "hello from $(uname -sr) in gVisor, as uid $(id -u) in $PWD"' output
  output=$(admin status --json 2>&1) || job_failed "\"cofferdam status\" said: $output"
  url=$(field url "$output")
  [[ $output != *'not encrypted by Cofferdam'* ]] ||
    note 'files at rest are not encrypted by Cofferdam: use an encrypted disk, or --data-image (docs/encryption.md)'
  # By TLS it is not asked here: who calls by the certificate's name may come another way than this host.
  if [[ -n $workspace_key && $url = http:* ]]; then
    output=$(post /exec "{\"command\": \"${command//\"/\\\"}\"}") || job_failed "POST /exec was answered: $output"
  else
    output=$(admin exec demo -- "$command" 2>&1) || job_failed "\"cofferdam exec\" said: $output"
  fi
  [[ $output =~ ^'hello from '.+' as uid '[0-9]+' in /' ]] || job_failed "the command printed: $output"
  note "\$ $command"
  note "$output"
}

job_failed() { # WHY
  show_log "$(unit api)" "$(unit sandboxd)"
  fail "$1" 'The lines above are the log. "cofferdam doctor" on a host where it runs tells what a host lacks.'
}

# An API call in the namespace "demo", without curl, which a minimal host lacks. False unless the answer is 200.
post() { # PATH JSON
  local status header host=${listen%:*}
  host=${host#[}
  exec 5<>"/dev/tcp/${host%]}/${listen##*:}"
  printf '%s\r\n' "POST $1 HTTP/1.1" "Host: $listen" "Authorization: Bearer $workspace_key" 'X-Namespace: demo' \
    'Content-Type: application/json' "Content-Length: ${#2}" 'Connection: close' '' >&5
  printf %s "$2" >&5
  read -r -t 60 _ status _ <&5
  while read -r header <&5 && [ "$header" != $'\r' ]; do :; done
  cat <&5
  exec 5<&-
  [ "$status" = 200 ]
}

next_steps() {
  [ -n "${url:-}" ] || [ "$start" = no ] || url=$(field url "$(admin status --json)")
  echo
  if [ "$start" = no ] && [ -n "$restore" ]; then
    echo "Cofferdam is installed, and is what $(head -n 1 "$data/restored") holds. To start it: ./install.sh"
    return
  fi
  if [ "$start" = no ]; then
    echo 'Cofferdam is installed. To start it, make its first workspace and see its keys: ./install.sh'
    return
  fi
  echo "Cofferdam runs: $url"
  if [ -n "$restore" ]; then
    echo "It is what $(head -n 1 "$data/restored") holds, and its keys are those that were in force then."
    return
  fi
  local key="\$KEY"
  if [ -n "$keys" ]; then
    key=$workspace_key
    show_keys
  fi
  echo
  echo 'Next:'
  echo "  curl -s $url/v1/exec -H 'Authorization: Bearer $key' -H 'X-Namespace: demo' --json '{\"command\": \"ls -la\"}'"
  echo "  python3 -m venv trove && trove/bin/pip -q install trove-sdk && trove/bin/python -c 'from trove_sdk import TroveClient as T; print(T(\"$key\", \"demo\", base_url=\"$url\").exec(\"ls -la\"))'"
  echo "  ${program/#\/usr\/local\/bin\//} exec demo$([ "$data" = "$DEFAULT_DATA" ] || echo " --data $data") -- 'ls -la'"
}

show_keys() {
  echo
  echo "  workspace      $(field workspace_id "$keys")"
  echo "  admin key      $(field admin_key "$keys")"
  echo "  workspace key  $(field workspace_key "$keys")"
  echo '  These keys are shown this once.'
  if [ -n "$keys_file" ]; then
    write_file "$keys_file" 600 "$keys"
    echo "  They are also in $keys_file"
  fi
  rm "$first_keys"
}
