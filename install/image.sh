# shellcheck shell=bash
# The data directory on a file system of its own that can encrypt, in a file beside it: DATA.img, mounted by a unit. The
# unit is written first and removed last, so that it tells what there is to go on with after a kill.

image_file() { echo "$data.img"; }

mount_unit() { systemd-escape --path --suffix=mount "$data"; }

has_image() { has_systemd && [ -e "$UNITS/$(mount_unit)" ]; }

# What an earlier install has made, as it was: whatever else looks into the data directory would find it empty.
attach_image() {
  has_image || return 0
  if [ -e "$(image_file)" ]; then
    mount_image
  elif [ -z "$data_image" ] && [ "$action" = install ]; then
    fail "$(image_file), which $data is on, is missing" \
      "Put it back, or make another: ./install.sh --data-image SIZE"
  fi
}

mount_image() {
  systemctl start "$(mount_unit)" 2>"$work/mount" ||
    fail "$(image_file) can't be mounted: $(journalctl --unit "$(mount_unit)" --lines=1 --output=cat 2>/dev/null)" \
      "Look at: journalctl --unit '$(mount_unit)'. It takes a kernel with loop devices."
}

check_image() {
  [ -n "$data_image" ] || return 0
  ! has_image || [ ! -e "$(image_file)" ] || return 0
  [ -z "$inst" ] || fail "$data holds an instance already, which --data-image would hide" \
    'Give another --data, or make a backup, uninstall, and restore it: docs/encryption.md.'
  [ -z "$(ls -A "$data" 2>/dev/null)" ] || fail "$data is not empty, and --data-image would hide what it holds" 'Give an empty directory.'
  [ ! -e "$(image_file)" ] || fail "there is a file $(image_file) already" 'Move it away, or give another --data.'
  has_systemd || fail 'systemd, which would mount the image at each boot, does not run this machine' \
    'Leave --data-image out, and let --data be on a disk that is encrypted.'
  command -v mkfs.ext4 >/dev/null || fail 'there is no mkfs.ext4' 'Install it, and run this again: apt-get install e2fsprogs'
  local free
  free=$(free_mb "$(dirname "$data")")
  [ "$free" -ge $((data_image + 500)) ] || fail "$(dirname "$data") has $free MB free, and the image takes $data_image" 'Make room, or give a smaller SIZE.'
}

make_image() {
  [ -n "$data_image" ] || return 0
  local file unit
  file=$(image_file) unit=$UNITS/$(mount_unit)
  ensure_directory "$data"
  on_undo systemctl daemon-reload
  write_file "$unit" 644 "# $data, on a file system of its own that can encrypt. Made by install.sh --data-image.
[Unit]
Description=Cofferdam data ($data)

[Mount]
What=$file
Where=$data
Type=ext4
Options=loop,nosuid,nodev

[Install]
WantedBy=multi-user.target"
  if [ -e "$file" ]; then
    note "it is there already, and stays as large as it is"
  else
    on_undo rm -f "$file" "$file.new"
    rm -f "$file.new" # of a run that was killed
    # All of it now: a disk that is full later would fail writes that the file system in it has promised.
    (umask 077 && fallocate --length "${data_image}M" "$file.new") ||
      fail "$file can't be made" 'Give a --data on another file system.'
    mkfs.ext4 -q -O encrypt -m 0 -E nodiscard "$file.new" 2>"$work/mkfs" || fail "mkfs.ext4: $(tail -n 1 "$work/mkfs")" 'It takes e2fsprogs 1.43 or newer.'
    sync "$file.new"
    mv -T "$file.new" "$file"
    sync "$(dirname "$file")"
  fi
  [ -n "$inst" ] || on_undo detach_image
  systemctl daemon-reload
  mount_image
  systemctl --quiet enable "$(mount_unit)"
  note "$data is on $file"
}

# The kernel says whether it can when it is asked to. The image's ext4 shows it by an attribute.
try_image() {
  local attributes
  prepare --unlock
  attributes=$(lsattr -d "$data/api/state" | cut -d ' ' -f 1)
  prepare --lock
  [[ $attributes = *E* ]] || fail "this kernel's ext4 can't encrypt" 'Leave --data-image out, and let --data be on a disk that is encrypted.'
}

detach_image() {
  systemctl --quiet disable --now "$(mount_unit)" 2>/dev/null || :
}

# For --purge.
remove_image() {
  has_image || return 0
  detach_image
  ! mountpoint --quiet "$data" || fail "$data is still in use" "See what holds it, with: fuser -vm $data. Then run it again."
  rm -f "$(image_file)" "$(image_file).new"
  rm "$UNITS/$(mount_unit)"
  systemctl daemon-reload
}
