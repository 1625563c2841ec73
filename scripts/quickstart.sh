#!/usr/bin/env bash
# quickstart.sh [DIR MNT]: from a clone to a mounted encrypted directory.
#
#   DIR   where the ciphertext lies   (default ~/kmsfs-demo/cipher)
#   MNT   where you work              (default ~/kmsfs-demo/plain)
#
# Installs what is missing (Rust, a C compiler, fuse3; by apt, with sudo if you are not root), builds kmsfs, makes a
# key manager and a volume, mounts it, writes a file and shows what lies on the disk. Run it again whenever you like.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

case ${1:-} in
  -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
[ $# = 0 ] || [ $# = 2 ] || die "usage: $0 [DIR MNT]"
dir=$(realpath -m "${1:-$HOME/kmsfs-demo/cipher}")
mnt=$(realpath -m "${2:-$HOME/kmsfs-demo/plain}")

say "== 1. what is missing"
need_build_tools || die "the build tools are missing, see above"
apt_need "fusermount3 fuse3" || die "fuse3 is missing, see above"
[ -e /dev/fuse ] || as_root modprobe fuse || true
[ -e /dev/fuse ] || die "there is no /dev/fuse: load the kernel module (modprobe fuse); in a container start it with --device /dev/fuse --cap-add SYS_ADMIN"
if [ "$(id -u)" != 0 ] && { [ ! -r /dev/fuse ] || [ ! -w /dev/fuse ]; }; then
  die "you may not use /dev/fuse: run this as root, or open it with: sudo chmod 666 /dev/fuse"
fi

say "== 2. building (a few minutes the first time)"
build_release
kmsfs=$(release_binary)
[ -x "$kmsfs" ] || die "no binary at $kmsfs"

say "== 3. key manager and volume"
home=${KMSFS_HOME:-}
if [ -z "$home" ]; then
  if [ "$(id -u)" = 0 ]; then home=/var/lib/kmsfs; else home=${XDG_DATA_HOME:-$HOME/.local/share}/kmsfs; fi
fi
if mountpoint -q "$mnt"; then
  [ "$(findmnt -no FSTYPE "$mnt")" = fuse.kmsfs ] || die "$mnt is a mountpoint of something else; name another: $0 DIR MNT"
  say "already mounted: $mnt"
else
  mkdir -p "$dir" "$mnt" || die "cannot make $dir and $mnt"
  if [ -e "$dir/.kmsfs/volume" ]; then
    say "there is a volume already: $dir"
  else
    keyfile=()
    if [ ! -e "$home" ] || [ -e "$home/domain.key" ]; then
      keyfile=(--keyfile)
      cat << TEXT

  !! This demonstration unlocks the key manager with a KEY FILE: $home/domain.key
  !! That is convenient, and no protection against somebody who has this disk: the key lies beside the data.
  !! For real data start with a passphrase instead:   kmsfs init DIR

TEXT
    fi
    "$kmsfs" init "${keyfile[@]}" "$dir" || die "init failed, see above"
  fi
  options=()
  [ "$(id -u)" != 0 ] || options=(-o allow_other)
  "$kmsfs" mount --daemon "${options[@]}" "$dir" "$mnt" || die "mount failed, see above; '$kmsfs doctor' checks this machine"
fi

say "== 4. a file through it"
text="written $(date -u +%FT%TZ) through kmsfs"
printf '%s\n' "$text" > "$mnt/hello.txt"
sync "$mnt/hello.txt"
[ "$(cat "$mnt/hello.txt")" = "$text" ] || die "read back something else than was written"
say "you see:      $mnt"
ls -l "$mnt"
say "it says:      $(cat "$mnt/hello.txt")"
say
say "the disk has: $dir"
ls -lA "$dir"
cipher=$(find "$dir" -maxdepth 1 -type f ! -name '.kmsfs*' -size +0 -printf '%T@ %p\n' | sort -rn | head -n 1 | cut -d ' ' -f 2-)
say "and in $(basename "$cipher"), from the first unit on:"
od -A x -t x1z -j 4096 -N 96 "$cipher"
if grep -rqF "$text" "$dir"; then die "the plaintext stands in the ciphertext directory: please report this"; fi

cat << TEXT

== It runs. Next:
  export PATH="$(dirname "$kmsfs"):\$PATH"
  cp -r ~/Documents "$mnt"/                 # work in it
  kmsfs info "$mnt/hello.txt"               # which key, which material, which size
  kmsfs key list                            # the keys of the embedded key manager
  kmsfs key create --alias work             # a key of your own: the volume's first one (alias/aws/kmsfs) is managed for you
  kmsfs rewrap "$dir" --to alias/work       # move every file to it, without reading data
  kmsfs key rotate alias/work               # new key material; files stay as they are
  kmsfs rewrap "$dir"                       # move every file to the newest material
  kmsfs audit show                          # who asked for what
  kmsfs verify "$dir"                       # authenticate everything
Unmount:      $kmsfs umount "$mnt"
Mount again:  $kmsfs mount --daemon "$dir" "$mnt"
Keep safe:    $home (without it the files are lost) and $dir
TEXT
