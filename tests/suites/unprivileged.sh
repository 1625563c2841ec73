#!/bin/bash
# unprivileged.sh: an ordinary user makes a volume, mounts it through fusermount3, works in it and unmounts it.
# Started by root it becomes the user `tests` (made when missing) or $TEST_USER; started by a user it stays that user.
# Where /dev/fuse is closed to users (some containers) root gives the test a private /dev/fuse in a mount namespace of its own.
set -u
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPO=$(cd "$HERE/../.." && pwd)
KMSFS_BIN=${KMSFS_BIN:-$REPO/target/release/kmsfs}

if [ "${1:-}" != inside ]; then
  command -v fusermount3 >/dev/null || { echo "unprivileged: needs fusermount3 (apt-get install fuse3)" >&2; exit 2; }
  work=$(mktemp -d "${TMPDIR:-/tmp}/kmsfs-user.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  # The build directory may lie in a home that others cannot enter.
  install -m 755 "$KMSFS_BIN" "$work/kmsfs" && install -m 755 "${BASH_SOURCE[0]}" "$work/unprivileged.sh" &&
    install -m 644 "$HERE/../cases.sh" "$HERE/corners.py" "$work" || exit 2
  chmod 755 "$work"
  mkdir "$work/home"
  if [ "$(id -u)" != 0 ]; then
    HOME=$work/home bash "$work/unprivileged.sh" inside "$work"
    exit
  fi
  user=${TEST_USER:-tests}
  id "$user" >/dev/null 2>&1 || { groupadd -f "$user"; useradd -M -g "$user" -s /usr/sbin/nologin "$user"; }
  chown "$user" "$work/home"
  run="runuser -u $user -- env -i PATH=$PATH HOME=$work/home USER=$user bash $work/unprivileged.sh inside $work"
  if runuser -u "$user" -- test -r /dev/fuse -a -w /dev/fuse; then
    $run
  else
    unshare --mount --propagation private bash -c \
      "mknod -m 666 '$work/fuse' c 10 229 && mount --bind '$work/fuse' /dev/fuse && $run"
  fi
  exit
fi

work=$2
cd "$work/home" || exit 2
k=$work/kmsfs
. "$work/cases.sh"
OUT=$work/home/out
trap 'mountpoint -q "$work/home/plain" && fusermount3 -u "$work/home/plain"' EXIT
mkdir plain
check "not root" test "$(id -u)" != 0
check "init" "$k" init --keyfile cipher
check "key manager's home is private" test "$(stat -c %a "$HOME/.local/share/kmsfs")" = 700
check "mount" "$k" mount --daemon cipher plain
check "it is a mount" mountpoint -q plain
check "write" bash -c 'head -c 3000000 /dev/urandom > data && cp data plain/data && mkdir plain/d && echo hello > plain/d/f && ln -s f plain/d/l && sync plain/data'
check "the file is mine" test "$(stat -c %u plain/data)" = "$(id -u)"
check "a file that its owner may not read" bash -c 'echo x > plain/locked && chmod 000 plain/locked && ! cat plain/locked && chmod 600 plain/locked && grep -q x plain/locked'
check "directories that their owner may not search or list" bash -c 'mkdir plain/shut && echo x > plain/shut/f && exec 9<> plain/shut/f &&
  chmod 0 plain/shut && ! ls plain/shut && stat -L -c %s /proc/self/fd/9 && echo more >&9 && chmod 400 plain/shut && ls plain/shut | grep -qx f &&
  ! cat plain/shut/f && chmod 300 plain/shut && ! ls plain/shut && touch plain/shut/g && grep -q more plain/shut/f && chmod 700 plain/shut && rm -r plain/shut'
check "a directory replaces an empty one that its owner may not change" bash -c 'mkdir -p plain/from/x plain/to/y && touch plain/from/x/f &&
  chmod 555 plain/to/y && mv -T plain/from/x plain/to/y && ls plain/to/y/f && rm -r plain/from plain/to'
check "an empty directory without any right is removed" bash -c 'mkdir -m 0 plain/none && rmdir plain/none'
check "a write-protected tree is used as it is" bash -c 'mkdir -p plain/mod/sub && echo x > plain/mod/sub/f && chmod -R a-w plain/mod && ls -lR plain/mod &&
  grep -q x plain/mod/sub/f && ! touch plain/mod/sub/g && chmod -R u+w plain/mod && rm -r plain/mod'
check "corners of POSIX" bash -c "mkdir plain/corners && python3 '$work/corners.py' plain/corners"
# A git repository holds 0444 files, and less is possible: what the mount serves, jobs over the volume have to reach.
for mode in 444 400 200 000; do echo $mode > plain/f$mode; setfattr -n user.$(printf z%.0s {1..200}) -v x plain/f$mode 2>/dev/null; chmod $mode plain/f$mode; done
for mode in 500 300 100 000; do mkdir plain/d$mode && echo x > plain/d$mode/f && chmod $mode plain/d$mode; done
check "two keys" bash -c "'$k' key create --alias k2 && '$k' key create --alias k3"
check "verify of a mounted volume reads what its owner may not" "$k" verify cipher
check "rewrap of a mounted volume moves all of it" "$k" rewrap cipher --to alias/k2
check "key impact of a mounted volume counts what its owner may not open" bash -c "'$k' key impact alias/k2 && ! '$k' key impact alias/k2 | grep unreadable"
check "modes are as they were set" test "$(stat -c %a plain/f444 plain/f400 plain/f200 plain/f000 plain/d500 plain/d300 plain/d100 plain/d000 | tr '\n' ' ')" = "444 400 200 0 500 300 100 0 "
check "no mode is left to give back" bash -c '[ -z "$(ls -A cipher/.kmsfs/intent)" ]'
pid=$(sed -n 's/^pid=//p' cipher/.kmsfs/lock)
check "the daemon makes no core dumps" grep -q '^Max core file size *0 *0' "/proc/$pid/limits"
# The system gives the files in /proc of an undumpable process to root; its own user cannot attach to it either.
check "the memory of the daemon is closed to its own user" bash -c "! [ -r /proc/$pid/mem ] && ! cat /proc/$pid/environ"
check "names and content are encrypted" bash -c '! ls -R cipher | grep -q data && ! grep -rq hello cipher'
check "unmount" "$k" umount plain
check "it is no mount any more" bash -c '! mountpoint -q plain'
check "verify reads what its owner may not" "$k" verify cipher
check "rewrap moves all of it" "$k" rewrap cipher --from alias/k2 --to alias/k3
check "key impact counts it" bash -c "'$k' key impact alias/k3 && ! '$k' key impact alias/k3 | grep unreadable"
check "nothing is left under the key before" bash -c "'$k' --json key impact alias/k2 | grep -q '\"Only\": *0'"
check "repair has nothing to do" "$k" repair cipher
check "salvage loses nothing" "$k" verify cipher --salvage saved
check "what was salvaged has its content and its mode" bash -c 'test "$(stat -c %a saved/f200 saved/d000 | tr "\n" " ")" = "200 0 " && chmod 600 saved/f200 && grep -q 200 saved/f200'
chmod -R u+rwX saved
check "no mode is left to give back by jobs" bash -c '[ -z "$(ls -A cipher/.kmsfs/intent)" ]'
home=$HOME/.local/share/kmsfs
chmod 000 "$home"
for command in "key list" "verify cipher" "kms slots list" "init other"; do
  # shellcheck disable=SC2086  # words
  expect 15 "a key manager's home that may not be entered: $command" "$k" $command
  said "permission denied" "says so"
  unsaid "there is no key manager" "and not that there is none"
done
expect 3 "doctor" "$k" doctor
said "permission denied" "says so too"
expect 0 "status" "$k" status
said "permission denied" "and so does status"
check "nothing was made" test ! -e other
chmod 500 "$home"
expect 15 "a key manager's home that may not be written" "$k" key list
said "may not write in $home" "says so"
chmod 700 "$home"
check "mount again" "$k" mount --daemon cipher plain
check "content is the same" cmp data plain/data
for mode in 4755 2755 6711 6755; do check "mode $mode is stored" test "$(stat -c %a plain/corners/$mode)" = $mode; done
check "through the link" grep -q hello plain/d/l
check "rm -r" rm -r plain/d
check "unmount with fusermount3" fusermount3 -u plain
cases_end
