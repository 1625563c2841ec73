#!/bin/bash
# cli.sh: the command line and the life of a volume through the real binary and real mounts: exit codes, keys and their
# states, bad input, recovery. Works as root and as an ordinary user. Environment: KMSFS_BIN, SUITE_WORK.
. "$(dirname "$0")/lib.sh"
volume_suite jq python3
mkdir "$C"
trap 'volume_cleanup "$WORK"/odd*.mnt "$WORK"/copy.mnt "$WORK"/m2 "$WORK"/ro "$WORK"/backing "$WORK"/own/small' EXIT

say() { printf '%s\n' "-- $*"; }
open_fails_with() { # ERRNO-NAME FILE TEXT
  local got
  got=$(python3 -c 'import errno,os,sys
try: os.read(os.open(sys.argv[1], os.O_RDONLY), 1); print("none")
except OSError as e: print(errno.errorcode[e.errno])' "$2")
  : > "$WORK/out"
  if [ "$got" = "$1" ]; then pass "$3"; else fail "$3: got $got, not $1"; fi
}
mount_it() { "$K" mount --daemon "$@" "$C" "$M"; }
# The first value of a field, whatever the shape around it and whether it is written as AWS does or in small letters.
field() { jq -r --arg f "$1" '[.. | objects | to_entries[] | select((.key | ascii_downcase | gsub("_"; "")) == ($f | ascii_downcase)) | .value | select(type == "string" or type == "number" or type == "boolean")] | first // empty' "$2"; }

say "usage and first steps"
expect 0 "--version" "$K" --version
said '^kmsfs [0-9]+\.' "says its version"
expect 0 "--help" "$K" --help
expect 2 "an unknown option is a usage error" "$K" --no-such-option
expect 2 "no command is a usage error" "$K"
expect 10 "info of a directory that is no volume" "$K" info "$C"
said "kmsfs init $C\$" "says how to make one"
expect 2 "mount of an empty directory, without a terminal, in an empty home" "$K" mount --daemon "$C" "$M"
said 'no terminal to ask' "says that there is nobody to ask for a passphrase"
said '--passphrase-file' "and what answers instead"
check "nothing is mounted" bash -c "! mountpoint -q '$M'"
check "and neither volume nor key manager is made" bash -c "[ ! -e '$KMSFS_HOME' ] && [ -z \"\$(ls -A '$C')\" ]"
expect 10 "mount of a directory that is not there" "$K" mount --daemon "$WORK/none" "$M"
said "kmsfs init $WORK/none" "says how to make a volume there"
expect 10 "verify of it" "$K" verify "$WORK/none"
expect 20 "umount where nothing is mounted" "$K" umount "$M"
said 'nothing is mounted' "says so"
said 'kmsfs status' "and what lists the mounts"
expect 0 "init with a key file" "$K" init --keyfile "$C"
said 'key ?file' "says that a key file is no protection against who has the disk"
[ "$(stat -c %a "$KMSFS_HOME")" = 700 ] && pass "key manager's home has mode 0700" || fail "mode of $KMSFS_HOME"
[ "$(stat -c %a "$KMSFS_HOME/domain.key")" = 600 ] && pass "key file has mode 0600" || fail "mode of domain.key"
fails "init of a volume that exists is refused" "$K" init --keyfile "$C"
mkdir "$WORK/foreign"; echo x > "$WORK/foreign/file"
expect 10 "mount of a foreign directory that is not empty is refused" "$K" mount --daemon "$WORK/foreign" "$M"
said 'not a kmsfs volume' "says that it is no volume"
fails "init with a key that is not there" "$K" init --key alias/none "$WORK/new/dir"
[ ! -e "$WORK/new" ] && pass "a refused init leaves no directory that it made" || fail "$WORK/new was left"
[ "$(stat -c %a "$KMSFS_HOME/kms.db")" = 600 ] && pass "key manager's database has mode 0600" || fail "mode of kms.db"
expect 0 "completions" "$K" completions bash
said 'complete' "are completions"
expect 0 "man page" "$K" man
expect 0 "doctor or its findings" bash -c "'$K' doctor; rc=\$?; [ \$rc = 0 ] || [ \$rc = 3 ]"

say "mount"
expect 20 "a mountpoint that is a file" "$K" mount --daemon "$C" "$KMSFS_HOME/domain.key"
said 'not a directory' "says so"
said 'empty directory' "and what to name"
expect 20 "a mountpoint that is not there" "$K" mount --daemon "$C" "$WORK/none/mnt"
said "mkdir -p $WORK/none/mnt" "says how to make it"
expect 0 "mount --daemon returns with a usable mount" mount_it
mountpoint -q "$M" && pass "it is a mountpoint" || { fail "it is not a mountpoint"; exit 1; }
head -c 5000000 /dev/urandom > "$WORK/data"
expect 0 "write a file" cp "$WORK/data" "$M/secret-name"
expect 0 "write a small file" bash -c "echo 'a plain secret' > '$M/small'; sync '$M/small'"
: > "$M/empty"
expect 0 "same content" cmp "$WORK/data" "$M/secret-name"
fails "no plaintext name in the ciphertext" bash -c "find '$C' | grep -q secret-name"
fails "no plaintext in the ciphertext" grep -rq 'a plain secret' "$C"
mkdir -p "$WORK/m2"
expect 11 "a second read-write mount is refused" "$K" mount --daemon "$C" "$WORK/m2"
said "kmsfs mount --ro $C $WORK/m2\$" "says how to read it all the same"
said "in use by process $(sed -n 's/^pid=//p' "$C/.kmsfs/lock") on host $(uname -n) \(mount $M\)" "names process, host and mountpoint"
check "nothing is mounted there" bash -c "! mountpoint -q '$WORK/m2'"
expect 0 "status" "$K" status --json
check "knows the mount" jq -e --arg m "$M" '[.mounts[] | select(.mountpoint == $m and .alive)] | length == 1' "$OUT.data"
mkdir "$M/sub"
for dir in "$M" "$M/sub"; do
  for command in info verify; do
    expect 10 "$command of $(basename "$dir") in the mount" "$K" $command "$dir"
    said "directory: $C\$" "names the volume's directory"
  done
done
rmdir "$M/sub"
expect 0 "info of a file" "$K" info --json "$M/small"
small=$(jq -r .ciphertext_path "$OUT.data")
check "names the key" jq -e '.slots[0].recipients[0].key | startswith("arn:aws:kms:")' "$OUT.data"
head -c 3000 "$small" > "$WORK/cut"
expect 16 "info of a header that was cut" "$K" info "$WORK/cut"
said 'cut or extended' "says so"
expect 1 "info of another program's file" "$K" info /etc/passwd
said 'no kmsfs file' "says so"
expect 0 "unmount" "$K" umount "$M"
mkdir "$C/inside"
expect 20 "mountpoint inside the ciphertext directory" "$K" mount --daemon "$C" "$C/inside"
said 'is inside the ciphertext directory' "says so"
check "nothing is mounted there" bash -c "! mountpoint -q '$C/inside'"
rmdir "$C/inside"
deep=$WORK/$(printf 'd%.0s' {1..140})/$(printf 'e%.0s' {1..140})
mkdir -p "$deep"
expect 0 "a mountpoint with a long path" "$K" mount --daemon "$C" "$deep"
expect 0 "unmount" "$K" umount "$deep"
mkdir -p "$WORK/full"; touch "$WORK/full/x"
expect 20 "mountpoint that is not empty" "$K" mount --daemon "$C" "$WORK/full"
said 'is not empty' "says so"
check "what is in it can be seen" test -e "$WORK/full/x"
expect 0 "mount again" mount_it
expect 0 "content has survived" cmp "$WORK/data" "$M/secret-name"
for place in "$M/bundle" "$C/bundle"; do
  expect 2 "a recovery bundle into $(dirname "$place")" "$K" export-recovery "$C" --out "$place"
  said 'name a file elsewhere' "says what to do instead"
  check "nothing is written" [ ! -e "$place" ]
done
expect 2 "a backup of the key manager into the mount of a volume that it opens" "$K" kms backup "$M/backup"
said "lies in the mount $M" "says why not"
said 'name a file elsewhere' "and what to do instead"
check "nothing is written" [ ! -e "$M/backup" ]
expect 0 "another key manager" env KMSFS_HOME="$WORK/kms.other" "$K" init --keyfile
expect 0 "its backup may lie there" env KMSFS_HOME="$WORK/kms.other" "$K" kms backup "$M/backup"
rm "$M/backup"
for place in "$M/notes" "$C/notes"; do
  expect 2 "notes of a verify in $(dirname "$place")" "$K" verify "$C" --resume "$place"
  said 'name a file elsewhere' "says what to do instead"
  check "nothing is written" [ ! -e "$place" ]
done
cp -a "$C" "$WORK/copy" && mkdir "$WORK/copy.mnt"
expect 0 "a copy is mounted" "$K" mount --daemon "$WORK/copy" "$WORK/copy.mnt"
expect 2 "a recovery bundle into the mount of a copy" "$K" export-recovery "$C" --out "$WORK/copy.mnt/bundle"
expect 0 "unmount the copy" "$K" umount "$WORK/copy.mnt"
expect 0 "the volume is where it was" "$K" verify "$C"

say "keys"
expect 0 "key list" "$K" key list --json
expect 0 "alias list" "$K" alias list --json
said 'alias/aws/kmsfs' "lists the automatic key"
expect 0 "key describe" "$K" key describe --json alias/aws/kmsfs
AUTO=$(field KeyId "$WORK/out")
[ -n "$AUTO" ] && pass "its key id" || fail "no key id"
expect 0 "key create" "$K" key create --json
KEY=$(field KeyId "$WORK/out")
[ -n "$KEY" ] && pass "the new key's id" || fail "no key id"
expect 0 "key rotate" "$K" key rotate "$KEY"
expect 0 "key rotations" "$K" key rotations --json "$KEY"
expect 0 "enable rotation" "$K" key enable-rotation "$KEY"
expect 0 "disable rotation" "$K" key disable-rotation "$KEY"
expect 0 "rewrap to the new key, mounted" "$K" rewrap "$C" --to "$KEY"
expect 0 "info after the rewrap" "$K" info --json "$M/secret-name"
said "$KEY" "the file is under the new key"
expect 0 "content is the same" cmp "$WORK/data" "$M/secret-name"
expect 0 "key rotate after" "$K" key rotate "$KEY"
expect 0 "unmount" "$K" umount "$M"
expect 0 "mount, so that no file is open or known" mount_it
exec 7< "$M/secret-name"
head -c 10 <&7 > /dev/null
expect 0 "disable the key" "$K" key disable "$KEY"
expect 0 "what is open goes on" bash -c "[ \$(cat <&7 | wc -c) -gt 4000000 ]" 7<&7
exec 7<&-
open_fails_with EACCES "$M/small" "a cold open gives EACCES, not EIO"
check "the log names the key and what to run" grep -q "key enable $KEY" "$KMSFS_HOME"/log/mount-*plain.log
check "the file can still be listed" bash -c "[ \$(stat -c %s '$M/small') = 15 ]"
expect 0 "enable the key" "$K" key enable "$KEY"
open_fails_with none "$M/small" "the file opens again"
expect 0 "disable the key" "$K" key disable "$KEY"
expect 0 "unmount" "$K" umount "$M"
expect 13 "a volume whose root key is under a disabled key is not mounted" mount_it
said "kmsfs key enable $KEY" "says what to run"
check "nothing is mounted" bash -c "! mountpoint -q '$M'"
expect 0 "info of the volume needs no key" "$K" info "$C"
expect 0 "enable the key" "$K" key enable "$KEY"
expect 0 "mount" mount_it
expect 0 "everything is back" cmp "$WORK/data" "$M/secret-name"
expect 2 "a deletion window of 6 days is refused" "$K" key schedule-deletion "$KEY" --pending-window-in-days 6
said 'greater than or equal to 7' "says what is possible"
expect 0 "describe" "$K" key describe --json "$KEY"
check "the key is as it was" jq -e '.KeyMetadata.KeyState == "Enabled"' "$OUT.data"
expect 0 "schedule deletion" "$K" key schedule-deletion --json "$KEY" --pending-window-in-days 7
expect 0 "cancel deletion" "$K" key cancel-deletion "$KEY"
expect 0 "describe" "$K" key describe --json "$KEY"
[ "$(field KeyState "$WORK/out")" = Disabled ] && pass "a key whose deletion was cancelled is disabled" || fail "state after cancel"
expect 0 "enable it" "$K" key enable "$KEY"
expect 1 "a key that is not there" "$K" key describe 00000000-0000-0000-0000-000000000000
said 'NotFoundException' "says so"
said 'kmsfs key list' "and what shows those that are"
expect 0 "audit show" "$K" audit show --json
said '"ScheduleKeyDeletion"' "has the deletion"
said '"DisableKey"' "has the disabling"
expect 0 "audit verify" "$K" audit verify

say "verify, damage and repair"
expect 0 "verify of the mounted volume finds nothing" "$K" verify "$C"
expect 0 "unmount" "$K" umount "$M"
expect 0 "verify finds nothing" "$K" verify "$C"
victim=$(find "$C" -type f -size +4M | head -n 1)
cp -p "$victim" "$WORK/victim"
printf '\377' | dd of="$victim" bs=1 seek=2000100 conv=notrunc 2> /dev/null
expect 3 "verify finds a flipped bit" "$K" verify --json "$C"
check "and names path, unit and reason" jq -e '.findings | length == 1 and .[0].path == "secret-name" and .[0].unit == 487 and .[0].outcome == "UnitAuth"' "$OUT.data"
expect 0 "mount" mount_it
expect 1 "reading over the damage fails" env LC_ALL=C cat "$M/secret-name"
said 'Input/output error' "with an I/O error"
open_fails_with none "$M/secret-name" "the start of it is readable"
expect 0 "the damaged file can be deleted" rm "$M/secret-name"
expect 0 "the rest is readable" grep -q 'a plain secret' "$M/small"
expect 0 "unmount" "$K" umount "$M"
cp "$C/.kmsfs/volume" "$WORK/volume"
printf 'XXXX' | dd of="$C/.kmsfs/volume" bs=1 seek=40 conv=notrunc 2> /dev/null
expect 16 "mount with a damaged volume config stops" mount_it
said "restore the second with: kmsfs repair $C --restore-config" "and says what to do"
check "nothing is mounted" bash -c "! mountpoint -q '$M'"
expect 3 "repair shows that the copies differ" "$K" repair "$C"
expect 0 "repair" "$K" repair "$C" --restore-config
expect 0 "mount after repair" mount_it
expect 0 "content" grep -q 'a plain secret' "$M/small"
expect 0 "unmount" "$K" umount "$M"
expect 0 "a recovery bundle" "$K" --json export-recovery "$C" --out "$WORK/bundle"
jq -r .recovery_key "$OUT.data" > "$WORK/bundle-key"
mv "$C/.kmsfs" "$WORK/kmsfs-saved" && cp -a "$WORK/kmsfs-saved" "$C/.kmsfs"
printf 'XXXX' | tee "$C/.kmsfs/volume" > "$C/.kmsfs/volume.bak"
expect 16 "mount with both copies damaged stops" mount_it
said "kmsfs repair $C" "names repair, which compares them"
said "from a backup" "a backup"
said "recover BUNDLE $C" "and the recovery bundle"
expect 16 "repair of both" "$K" repair "$C"
said "recover BUNDLE $C" "names the bundle as well"
expect 12 "with a wrong recovery key" "$K" --kms-home "$WORK/kms-new" --recovery-key-file "$WORK/data" recover "$WORK/bundle" "$C"
said "printed by|was printed" "says which one is right"
expect 1 "over the key manager that is there" "$K" --recovery-key-file "$WORK/bundle-key" recover "$WORK/bundle" "$C"
said "kms-home NEW recover" "says that another place is to be named"
expect 16 "a file that is no bundle" "$K" --kms-home "$WORK/kms-new" --recovery-key-file "$WORK/bundle-key" recover "$WORK/data" "$C"
said "export-recovery wrote" "says what one is"
expect 0 "recover into a new key manager" "$K" --kms-home "$WORK/kms-new" --recovery-key-file "$WORK/bundle-key" recover --keyfile "$WORK/bundle" "$C"
expect 0 "mount with the key manager that was there" mount_it
expect 0 "content" grep -q 'a plain secret' "$M/small"
expect 0 "unmount" "$K" umount "$M"

say "what a mount must not get wrong"
F=$WORK/own; mkdir -p "$F" "$WORK/m2"
mount_fresh() { "$K" mount --daemon "$F/cipher" "$WORK/m2"; }
mkdir "$F/cipher"
expect 0 "a volume of its own" env KMSFS_HOME="$F/kms" "$K" init --keyfile "$F/cipher"
OWN=$(KMSFS_HOME=$F/kms "$K" key create --json > "$WORK/key.json"; field KeyId "$WORK/key.json")
expect 0 "under a key of its own" env KMSFS_HOME="$F/kms" "$K" rewrap "$F/cipher" --to "$OWN"
export KMSFS_HOME=$F/kms
expect 0 "mount it" mount_fresh
# Reserved space that somebody read must still be zeros after a flush and a remount (ext4 calls it data then).
expect 0 "fallocate, read, fsync" sh -c "fallocate -l 1M '$WORK/m2/reserved' && cat '$WORK/m2/reserved' > /dev/null && sync '$WORK/m2/reserved'"
expect 0 "unmount" "$K" umount "$WORK/m2"
expect 0 "mount it again" mount_fresh
expect 0 "reserved space reads as zeros" cmp -n 1048576 "$WORK/m2/reserved" /dev/zero
# Times at the ends of what the kernel can send.
expect 0 "the smallest time does no harm" touch -d @-9223372036854775808 "$WORK/m2/reserved"
expect 0 "the mount still answers" ls -l "$WORK/m2"
expect 0 "a time before 1970 with a fraction" touch -d "1969-12-31 23:59:58.5 UTC" "$WORK/m2/reserved"
if [ "$(stat -c %.1Y "$WORK/m2/reserved")" = -1.5 ]; then pass "is kept"; else fail "is kept: $(stat -c %.1Y "$WORK/m2/reserved")"; fi
# What cannot be stored must not be accepted.
: > "$WORK/m2/empty"
expect 0 "disable its key" "$K" key disable "$OWN"
fails "a new file is refused at once" sh -c "LC_ALL=C; export LC_ALL; : > '$WORK/m2/new'"
said 'Permission denied' "with Permission denied, not an I/O error"
fails "and is not there" test -e "$WORK/m2/new"
fails "an empty file cannot be opened for writing" sh -c "echo x > '$WORK/m2/empty'"
expect 0 "directories and renames need no key" sh -c "mkdir '$WORK/m2/d' && mv '$WORK/m2/empty' '$WORK/m2/d/e' && rm -r '$WORK/m2/d'"
expect 0 "enable its key" "$K" key enable "$OWN"
expect 0 "a new file is accepted again" sh -c "echo x > '$WORK/m2/new'"
expect 0 "unmount" "$K" umount "$WORK/m2"
expect 0 "verify" "$K" verify "$F/cipher"
if [ "$(id -u)" = 0 ]; then
  # A flush that failed is reported to whoever has the file open, and the data is not reported durable later.
  mkdir "$F/small" && mount -t tmpfs -o size=3m tmpfs "$F/small" && mkdir "$F/small/cipher"
  expect 0 "a volume on a small device" "$K" init "$F/small/cipher"
  expect 0 "mount it" "$K" mount --daemon "$F/small/cipher" "$WORK/m2"
  cat > "$WORK/full.py" <<'PYTHON'
import errno, os, sys
one = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
two = os.open(sys.argv[1], os.O_RDWR)
try:
    os.write(one, b"x" * (6 << 20))
except OSError as e:
    assert e.errno == errno.ENOSPC, e
for fd in (one, two):
    try:
        os.fsync(fd)
        sys.exit("fsync said that lost data is durable")
    except OSError as e:
        assert e.errno in (errno.ENOSPC, errno.EIO), e
PYTHON
  expect 0 "a full device: every open file is told" python3 "$WORK/full.py" "$WORK/m2/big"
  rm -f "$WORK/m2/big"
  expect 0 "works again when there is space" sh -c "echo x > '$WORK/m2/f' && sync '$WORK/m2/f'"
  expect 0 "unmount" "$K" umount "$WORK/m2"
  umount "$F/small"
  mount -t tmpfs -o size=64k tmpfs "$F/small"
  expect 1 "a backup of the key manager on a full device" "$K" kms backup "$F/small/backup"
  said "small/backup: No space left on device" "says which"
  said 'make room' "and what to do"
  check "nothing half is left" [ ! -e "$F/small/backup" ]
  umount "$F/small"
fi
export KMSFS_HOME=$WORK/kms

say "a feature that this version does not know"
printf '\200' | dd of="$C/.kmsfs/volume" bs=1 seek=39 conv=notrunc 2> /dev/null
for command in "mount --daemon" "mount --daemon --ro" verify rewrap; do
  case $command in mount*) to=$M ;; *) to= ;; esac
  # shellcheck disable=SC2086  # several words, or none
  expect 1 "$command is refused" "$K" $command "$C" $to
  said 'use a newer kmsfs' "and says what to do"
done
cp "$C/.kmsfs/volume.bak" "$C/.kmsfs/volume"

say "another volume, another home"
expect 0 "second volume" "$K" init "$WORK/cipher2"
cp "$C/.kmsfs/volume" "$WORK/volume"
cp "$WORK/cipher2/.kmsfs/volume" "$C/.kmsfs/volume"
expect 16 "mount with the configuration of another volume stops" mount_it
said "kmsfs repair $C" "and says what to do"
expect 16 "verify stops as well" "$K" verify "$C"
expect 0 "the copy is as it was" cmp "$WORK/volume" "$C/.kmsfs/volume.bak"
expect 0 "repair" "$K" repair "$C" --restore-config
expect 0 "the configuration is back" cmp "$WORK/volume" "$C/.kmsfs/volume"
expect 0 "mount both one after the other" bash -c "'$K' mount --daemon '$WORK/cipher2' '$WORK/m2' && echo other > '$WORK/m2/other' && '$K' umount '$WORK/m2'"
cp "$(find "$C" -maxdepth 1 -type f ! -name '.kmsfs*' -size +0 | head -n 1)" "$WORK/cipher2/"
expect 3 "verify finds the foreign file" "$K" verify "$WORK/cipher2"
foreign=$(find "$WORK/cipher2" -maxdepth 1 -type f ! -name '.kmsfs*' -size +0 -newer "$WORK/volume" -print0 | xargs -0 ls -t | head -n 1)
expect 0 "mount the volume with the foreign file" "$K" mount --daemon "$WORK/cipher2" "$WORK/m2"
[ "$(ls "$WORK/m2")" = other ] && pass "its name is not listed" || fail "a listing of $(ls "$WORK/m2")"
expect 0 "the log says that an entry was left out" grep -q BadName "$KMSFS_HOME"/log/mount-*m2.log
expect 0 "it can be deleted in the backing directory" rm "$foreign"
# Under a name that is right, the header of another file of the volume and that of another volume.
printf 'one\n' > "$WORK/m2/one"; printf 'two\n' > "$WORK/m2/two"; sync "$WORK/m2/one" "$WORK/m2/two"
named() { find "$WORK/cipher2" -inum "$(stat -c %i "$WORK/m2/$1")"; }
one=$(named one) two=$(named two)
expect 0 "unmount" "$K" umount "$WORK/m2"
cp "$two" "$WORK/two"
dd if="$one" of="$two" bs=4096 count=1 conv=notrunc 2> /dev/null
expect 0 "mount" "$K" mount --daemon "$WORK/cipher2" "$WORK/m2"
open_fails_with EIO "$WORK/m2/two" "the header of another file: its content is not read"
expect 0 "the other is" grep -q one "$WORK/m2/one"
expect 0 "unmount" "$K" umount "$WORK/m2"
expect 3 "verify finds it" "$K" verify "$WORK/cipher2"
cat "$(find "$C" -maxdepth 1 -type f ! -name '.kmsfs*' -size +0 | head -n 1)" > "$two"
expect 0 "mount" "$K" mount --daemon "$WORK/cipher2" "$WORK/m2"
open_fails_with EIO "$WORK/m2/two" "a file of another volume: it is not opened"
expect 0 "unmount" "$K" umount "$WORK/m2"
cp "$WORK/two" "$two"
expect 0 "verify finds nothing once the file is back" "$K" verify "$WORK/cipher2"
expect 0 "another key manager" env KMSFS_HOME="$WORK/kms2" "$K" init --keyfile
expect 16 "does not mount the volume" env KMSFS_HOME="$WORK/kms2" "$K" mount --daemon "$C" "$M"
said 'trust-new-volume' "and says what to do if it is to be trusted"
said '--kms-home' "or if another key manager is meant"
expect 1 "trust does not help where the key is not" env KMSFS_HOME="$WORK/kms2" "$K" mount --daemon --trust-new-volume "$C" "$M"
said 'NotFoundException' "says that the key is not there"
said 'kmsfs key list' "and how to find out why"
expect 10 "no key manager at all" env KMSFS_HOME="$WORK/none" "$K" mount --daemon "$C" "$M"
said '--kms-home DIR' "names the option"
said 'kmsfs kms restore' "the backup"
said "kmsfs recover BUNDLE $C" "and the bundle"
unsaid 'kmsfs init' "but not init"
expect 0 "doctor" env KMSFS_HOME="$WORK/none" "$K" --json doctor
check "says the same" jq -e '.checks[] | select(.name == "key manager") | .fix | contains("--kms-home") and contains("kms restore") and contains("recover")' "$OUT.data"
# A registry that does not know the volume, beside the keys that open it: a database from before the volume was made.
export KMSFS_HOME=$WORK/kms4
expect 0 "a key manager" "$K" init --keyfile
expect 0 "a key" "$K" key create --alias early
expect 0 "a backup" "$K" kms backup "$WORK/early.backup"
expect 0 "a volume under the key" "$K" init --key alias/early "$WORK/cipher6"
expect 0 "mount" "$K" mount --daemon "$WORK/cipher6" "$WORK/m2"
echo kept > "$WORK/m2/file"
expect 0 "unmount" "$K" umount "$WORK/m2"
expect 0 "the older database" "$K" kms restore --replace "$WORK/early.backup"
expect 16 "does not know the volume" "$K" mount --daemon "$WORK/cipher6" "$WORK/m2"
said VolumeUnknown "says so"
check "nothing is mounted" bash -c "! mountpoint -q '$WORK/m2'"
expect 0 "which is mounted with --trust-new-volume" "$K" mount --daemon --trust-new-volume "$WORK/cipher6" "$WORK/m2"
expect 0 "its content is there" grep -qx kept "$WORK/m2/file"
expect 0 "unmount" "$K" umount "$WORK/m2"
expect 0 "and is known from then on" "$K" verify "$WORK/cipher6"
expect 0 "the older database once more" "$K" kms restore --replace "$WORK/early.backup"
expect 16 "verify does not know it either" "$K" verify "$WORK/cipher6"
expect 0 "and trusts it when it is told to" "$K" verify --trust-new-volume "$WORK/cipher6"
expect 0 "the mount option" bash -c "'$K' kms restore --replace '$WORK/early.backup' && '$K' mount --daemon -o trust-new-volume '$WORK/cipher6' '$WORK/m2' && '$K' umount '$WORK/m2'"
export KMSFS_HOME=$WORK/kms
echo 'correct horse battery' > "$WORK/pass"; echo wrong > "$WORK/wrong"
expect 0 "init with a passphrase" env KMSFS_HOME="$WORK/kms3" "$K" init --passphrase-file "$WORK/pass" "$WORK/cipher3"
said 'recovery' "prints a recovery key"
for secret in "--passphrase-file $WORK/none" "--passphrase-command 'exit 3'"; do
  expect 1 "$secret" bash -c "KMSFS_HOME='$WORK/kms3' '$K' mount --daemon $secret '$WORK/cipher3' '$WORK/m2'"
  said '^hint: ' "says what to do"
  said 'passphrase' "about the passphrase"
done
if [ "$(id -u)" != 0 ]; then
  chmod 000 "$WORK/wrong"
  expect 15 "a passphrase file that may not be read" env KMSFS_HOME="$WORK/kms3" "$K" mount --daemon --passphrase-file "$WORK/wrong" "$WORK/cipher3" "$WORK/m2"
  said 'this user has to be able to read it' "says so"
  chmod 600 "$WORK/wrong"
fi
expect 12 "wrong passphrase" env KMSFS_HOME="$WORK/kms3" "$K" mount --daemon --passphrase-file "$WORK/wrong" "$WORK/cipher3" "$WORK/m2"
expect 0 "right passphrase, from a command" env KMSFS_HOME="$WORK/kms3" "$K" mount --daemon --passphrase-command "cat $WORK/pass" "$WORK/cipher3" "$WORK/m2"
expect 0 "unmount" "$K" umount "$WORK/m2"

say "rewrap of a mounted volume"
mkdir "$WORK/cipher4"
expect 0 "a key for the volume" "$K" key create --json --alias first
FIRST=$(field KeyId "$WORK/out")
expect 0 "a second key" "$K" key create --json --alias second
SECOND=$(field KeyId "$WORK/out")
expect 0 "a volume under the first" "$K" init --key alias/first "$WORK/cipher4"
expect 0 "mount" "$K" mount --daemon "$WORK/cipher4" "$WORK/m2"
mkdir "$WORK/m2/dir" "$WORK/m2/other"
for i in $(seq 200); do echo "file $i" > "$WORK/m2/dir/$i"; done
echo shared > "$WORK/m2/shared"
ln "$(find "$WORK/cipher4" -inum "$(stat -c %i "$WORK/m2/shared")")" "$WORK/of-another-generation"
exec 8> "$WORK/m2/open"
echo begin >&8
expect 0 "status knows the open file" "$K" status --json
jq -e --arg m "$WORK/m2" '.mounts[] | select(.mountpoint == $m) | .open_files == 1 and .version != null' "$WORK/out" > /dev/null \
  && pass "and asks the mount itself" || fail "status does not show the mount's own answer"
expect 0 "stats" "$K" stats --json "$WORK/m2/dir"
jq -e '(.operations[] | select(.operation == "create") | .count) >= 201 and .data_keys_made >= 200' "$WORK/out" > /dev/null \
  && pass "counts what was created, and the data keys made for it" || fail "stats does not count: $(cat "$WORK/out")"
expect 20 "stats of what is no mount" "$K" stats "$WORK/cipher4"
expect 0 "bench of a mount" "$K" bench --json --rounds 1 --size 2 --files 20 --seconds 1 "$WORK/m2/other"
jq -e '.jobs | length == 13 and all(.places.here.rates[0] > 0)' "$WORK/out" > /dev/null \
  && pass "measures every job" || fail "bench lacks jobs: $(cat "$WORK/out")"
[ -z "$(ls "$WORK/m2/other")" ] && pass "and removes what it made" || fail "bench leaves $(ls "$WORK/m2/other")"
mkdir "$WORK/limits"
expect 0 "bench of the limits" "$K" bench --limits --rounds 1 --size 2 --files 20 --jobs seq-write,seq-read,create "$WORK/limits"
grep -q 'OF PASSTHROUGH' "$WORK/out" && [ "$(grep -c '^ *\(seq-write\|seq-read\|create\) ' "$WORK/out")" = 3 ] \
  && pass "measures beside a mount without encryption" || fail "bench --limits says: $(cat "$WORK/out")"
[ -z "$(ls "$WORK/limits")" ] && pass "and leaves no mount and no file" || fail "bench --limits leaves $(ls "$WORK/limits")"
expect 2 "bench of an unknown job" "$K" bench --jobs seq-reed "$WORK/limits"
expect 1 "bench where there is nothing" "$K" bench "$WORK/limits/none"
expect 0 "rotate" "$K" key rotate "$FIRST"
expect 0 "rewrap to the new material" "$K" rewrap --json "$WORK/cipher4"
[ "$(field rewrapped "$OUT.data")" = 202 ] && pass "moves every file" || fail "not every file was moved"
said "1 files have names outside of $WORK/cipher4" "warns of the one that is in another place too"
sync && cp -a "$WORK/cipher4" "$WORK/backup4"
( for i in $(seq 300); do echo "line $i" >&8; done ) &
writer=$!
( for i in $(seq 200); do mv "$WORK/m2/dir/$i" "$WORK/m2/other/$i"; echo "new $i" > "$WORK/m2/dir/new$i"; done ) &
mover=$!
expect 0 "rewrap to the second key while files are written and moved" "$K" rewrap --json "$WORK/cipher4" --from alias/first --to alias/second
wait $writer $mover
exec 8>&-
expect 0 "the old key is disabled" "$K" key disable "$FIRST"
echo later > "$WORK/m2/later"
expect 0 "unmount" "$K" umount "$WORK/m2"
[ -z "$(ls "$KMSFS_HOME/run")" ] && pass "no socket is left" || fail "a socket is left"
expect 0 "mount without the old key" "$K" mount --daemon "$WORK/cipher4" "$WORK/m2"
rm "$WORK/m2/shared"
expect 0 "every file that was moved is readable" bash -c "[ \$(cat '$WORK/m2'/other/* | wc -l) = 200 ]"
expect 0 "every file that was made is readable" bash -c "[ \$(cat '$WORK/m2'/dir/new* '$WORK/m2/later' | wc -l) = 201 ]"
expect 0 "the file that was open has all its lines" bash -c "[ \$(wc -l < '$WORK/m2/open') = 301 ]"
expect 11 "another home does not reach the mount" env KMSFS_HOME="$WORK/kms3" "$K" rewrap "$WORK/cipher4"
said 'kms-home' "and says what to name"
expect 0 "unmount" "$K" umount "$WORK/m2"
expect 0 "verify" "$K" verify "$WORK/cipher4"
expect 0 "a rewrap without a mount finds nothing left" "$K" rewrap --json "$WORK/cipher4" --from "$FIRST" --to "$SECOND"
[ "$(field rewrapped "$WORK/out")" = 0 ] && pass "none was missed" || fail "a file was missed"
expect 0 "the old key is enabled, for a backup" "$K" key enable "$FIRST"
expect 16 "rewrap of a backup from before" "$K" rewrap "$WORK/backup4" --from "$FIRST" --to "$SECOND"
said 'accept-rollback' "and says what to add"
expect 0 "rewrap of a backup, accepted" "$K" rewrap --accept-rollback "$WORK/backup4" --from "$FIRST" --to "$SECOND"
said 'ignore-times' "and says what rsync does not see"
expect 0 "the old key is disabled again" "$K" key disable "$FIRST"
expect 0 "verify of the backup without the old key" "$K" verify "$WORK/backup4"
expect 0 "and of the volume" "$K" verify "$WORK/cipher4"
rm -rf "$WORK/backup4"

say "read-only, signals, a killed daemon"
mkdir -p "$WORK/ro"
expect 0 "--ro" "$K" mount --daemon --ro "$C" "$WORK/ro"
expect 0 "reads" grep -q 'a plain secret' "$WORK/ro/small"
fails "does not write" touch "$WORK/ro/new"
expect 0 "unmount" "$K" umount "$WORK/ro"
if [ "$(id -u)" = 0 ]; then
  mkdir -p "$WORK/backing"
  mount --bind "$C" "$WORK/backing" && mount -o remount,bind,ro "$WORK/backing" || fail "a read-only bind mount"
  tree() { (cd "$C" && find . -exec stat -c '%n %i %s %Y %Z' {} + | sort && find . -type f -exec cksum {} + | sort) > "$1"; }
  tree "$WORK/before"
  expect 1 "read-only backing: a mount without --ro is refused" "$K" mount --daemon "$WORK/backing" "$WORK/ro"
  said 'read-only filesystem' "says why"
  said "mount --ro $WORK/backing" "says what to run"
  mountpoint -q "$WORK/ro" && fail "it is mounted all the same" || pass "nothing is mounted"
  expect 0 "read-only backing: --ro" "$K" mount --daemon --ro "$WORK/backing" "$WORK/ro"
  expect 0 "reads" grep -q 'a plain secret' "$WORK/ro/small"
  fails "does not write" touch "$WORK/ro/new"
  expect 0 "unmount" "$K" umount "$WORK/ro"
  expect 0 "read-only backing: verify" "$K" verify "$WORK/backing"
  tree "$WORK/after"
  expect 0 "nothing has changed" cmp "$WORK/before" "$WORK/after"
  umount "$WORK/backing"
fi
"$K" mount "$C" "$M" > "$WORK/fg.log" 2>&1 &
pid=$!
for _ in $(seq 100); do mountpoint -q "$M" && break; sleep 0.05; done
expect 0 "mount in the foreground" mountpoint -q "$M"
echo signal > "$M/signal"
kill -TERM $pid
wait $pid
expect 0 "SIGTERM unmounts" bash -c "! mountpoint -q '$M'"
"$K" mount "$C" "$M" > "$WORK/fg.log" 2>&1 &
pid=$!
for _ in $(seq 100); do mountpoint -q "$M" && break; sleep 0.05; done
expect 0 "what was written before the signal is there" grep -q signal "$M/signal"
bash -c "echo synced > '$M/synced'; sync '$M/synced'"
kill -KILL $pid
wait $pid 2> /dev/null
expect 0 "status with a dead mount" "$K" status
said "the mount at $M is dead" "says so"
expect 20 "mount on the dead mountpoint" mount_it
said "kmsfs umount $M" "says how to remove it"
expect 0 "umount removes it" "$K" umount "$M"
expect 0 "mount after a killed daemon" mount_it
expect 0 "what was fsynced is there" grep -q synced "$M/synced"
expect 0 "unmount" "$K" umount "$M"
expect 0 "verify" "$K" verify "$C"

say "signals to a mount in use"
# Appends and fsyncs until it gets an error; then says how much was synced.
cat > "$WORK/writer.py" <<'PYTHON'
import os, sys
fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
synced = 0
try:
    while True:
        os.write(fd, b"%07d\n" % synced)
        os.fsync(fd)
        synced += 1
except OSError:
    print(synced)
PYTHON
foreground() { # mounts in the foreground; its process is $pid
  "$K" mount "$C" "$M" > "$WORK/fg.log" 2>&1 &
  pid=$!
  for _ in $(seq 100); do mountpoint -q "$M" && break; sleep 0.05; done
}
ended() { # STATUS SECONDS TEXT: the process ended so, within this time
  local start=$SECONDS rc
  wait $pid
  rc=$?
  : > "$WORK/out"
  if [ $rc = "$1" ] && [ $((SECONDS - start)) -le "$2" ]; then pass "$3"; else fail "$3: exit status $rc after $((SECONDS - start)) s"; fi
}
foreground
# Not within the record of its own mounting: whoever is stopped there holds the audit log's lock, and everybody waits for him.
sleep 2
kill -STOP $pid
expect 0 "status of a mount that is stopped ends" timeout 20 "$K" status
said "the mount at $M does not answer" "and says so"
kill -CONT $pid
if [ "$(id -u)" = 0 ]; then
  mount -t tmpfs none "$M" && echo precious > "$M/precious"
  kill -TERM $pid
  sleep 1
  expect 0 "a signal takes no filesystem away that is mounted on the mount" grep -q precious "$M/precious"
  expect 0 "the log says what it waits for" grep -q 'by another mount on it' "$WORK/fg.log"
  umount "$M"
  ended 0 5 "when that is gone the mount ends"
else
  kill -TERM $pid
  ended 0 5 "SIGTERM ends it"
fi
for signal in TERM INT; do
  foreground
  python3 "$WORK/writer.py" "$M/busy-$signal" > "$WORK/synced-$signal" &
  writer=$!
  exec 9> "$M/unsynced-$signal"
  echo written >&9
  sleep 1
  kill -$signal $pid
  sleep 1
  expect 0 "a mount in use goes on for a while after SIG$signal" mountpoint -q "$M"
  ended 11 22 "SIG$signal ends a mount in use within its bound, with status 11"
  wait $writer
  exec 9>&-
  expect 0 "no dead mount stays" bash -c "! mountpoint -q '$M' && ls '$M'"
done
# Writes much in the last second, and goes on until it gets an error; then says how much was written when the end came.
cat > "$WORK/late.py" <<'PYTHON'
import os, sys, time
SIZE = 256
fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o644)
os.write(fd, b"x")
time.sleep(float(sys.argv[2]))
for i in range(SIZE):
    os.pwrite(fd, i.to_bytes(4, "big") * (1 << 18), i << 20)
print(SIZE, flush=True)
try:
    for i in range(100_000):
        time.sleep(0.001)
        os.pwrite(fd, b"later", i * 4096 + 8)
except OSError:
    print("refused")
PYTHON
foreground
python3 "$WORK/late.py" "$M/late" 9.5 > "$WORK/late" &
writer=$!
for _ in $(seq 100); do [ -s "$M/late" ] && break; sleep 0.05; done
kill -TERM $pid
ended 11 22 "a mount whose user writes much at the end ends within its bound"
wait $writer
grep -q refused "$WORK/late" && pass "who goes on writing gets an error" || fail "no error for who goes on writing"
if grep -q 'lack their last writes' "$WORK/fg.log"; then told=lost; elif grep -q 'is stored' "$WORK/fg.log"; then told=stored; else told=nothing; fi
[ $told = stored ] && pass "the log says that everything is stored" || fail "the log says: $told"
expect 0 "mount after it" mount_it
expect 0 "and so it is" python3 -c 'import sys
with open(sys.argv[1], "rb") as f:
    for i in range(256):
        part = bytearray(f.read(1 << 20))
        for at in range(8, 1 << 20, 4096): part[at:at + 5] = (i.to_bytes(4, "big") * 4)[:5]
        assert part == i.to_bytes(4, "big") * (1 << 18), i' "$M/late"
expect 0 "unmount" "$K" umount "$M"
foreground
exec 9> "$M/kept-open"
echo late >&9
kill -TERM $pid
sleep 1
exec 9>&-
ended 0 5 "a mount whose users let go ends at once, with status 0"
foreground
exec 9> "$M/kept-open-2"
kill -TERM $pid
sleep 1
kill -TERM $pid
ended 1 5 "a second signal ends it at once, with status 1"
exec 9>&-
expect 0 "no dead mount stays" bash -c "! mountpoint -q '$M' && ls '$M'"
expect 0 "mount after it" mount_it
expect 0 "what was closed is there" grep -q late "$M/kept-open"
for signal in TERM INT; do
  synced=$(cat "$WORK/synced-$signal")
  lines=$(wc -l < "$M/busy-$signal")
  : > "$WORK/out"
  expect 0 "what was written without a sync is there as well" grep -q written "$M/unsynced-$signal"
  if [ "${synced:-0}" -gt 0 ] && [ "$lines" -ge "$synced" ]; then pass "all $synced synced writes are there after SIG$signal"; else fail "$lines lines after SIG$signal, ${synced:-0} were synced"; fi
done
expect 0 "unmount" "$K" umount "$M"
expect 0 "verify" "$K" verify "$C"

say "a limit of the size of files"
expect 0 "mount" mount_it
expect 0 "a file beyond the limit" bash -c "head -c 41943040 /dev/zero > '$M/large' && sync '$M/large'"
expect 0 "unmount" "$K" umount "$M"
# In KiB: no multiple of the unit.
( ulimit -f 20001; exec "$K" mount --daemon "$C" "$M" ) && pass "mount with a limit" || fail "mount with a limit"
fails "a file grows no further than to the limit" bash -c "head -c 41943040 /dev/zero > '$M/growing' && sync '$M/growing'"
expect 0 "its size is what was stored, also for who does not open it" bash -c "for i in \$(seq 50); do size=\$(stat -c %s '$M/growing'); [ \$size -gt 20482048 ] || break; sleep 0.1; done; [ \$size -le 20482048 ] && [ \$size = \$(wc -c < '$M/growing') ]"
fails "nothing is written beyond it" dd if=/dev/urandom of="$M/large" bs=1M count=40 conv=notrunc,fsync
expect 0 "the daemon lives" mountpoint -q "$M"
expect 0 "it writes below the limit" bash -c "echo below > '$M/below' && sync '$M/below'"
expect 0 "every byte can be read" bash -c "[ \$(wc -c < '$M/large') = 41943040 ] && cat '$M/large' '$M/growing'"
expect 0 "unmount" "$K" umount "$M"
expect 0 "verify" "$K" verify "$C"

if [ "$(id -u)" = 0 ] && command -v mkfs.ext4 > /dev/null; then
  say "directory ids on ext4 with and without a journal, and on ext2"
  mkdir -p "$WORK/backing"
  for made in "symbolic link:mkfs.ext4 -q -F" "regular file:mkfs.ext4 -q -F -O ^has_journal" "regular file:mkfs.ext2 -q -F"; do
    rm -f "$WORK/img"; truncate -s 32M "$WORK/img"
    ${made#*:} "$WORK/img" && mount -o loop "$WORK/img" "$WORK/backing" || { echo "skipped: no loop device for ${made#*:}"; continue; }
    mkdir "$WORK/backing/cipher"
    expect 0 "a volume (${made#*:})" "$K" init "$WORK/backing/cipher"
    kind=$(stat -c %F "$WORK/backing/cipher/.kmsfs.dir")
    [ "$kind" = "${made%%:*}" ] && pass "its directory id is a $kind" || fail "its directory id is a $kind, not a ${made%%:*}"
    umount "$WORK/backing"
  done
  rm -f "$WORK/img"
fi

say "interruption, and a key manager that does not answer"
# The signal comes while the passphrase is awaited, so the job meets it before its first file.
interrupted() { # COMMAND...: exit status of the command, which gets SIGINT after a second
  KMSFS_HOME=$WORK/kms3 "$K" --passphrase-command "sleep 3; cat '$WORK/pass'" "$@" > "$WORK/out" 2>&1 < /dev/null &
  local job=$!
  sleep 1
  kill -INT $job
  wait $job
}
for command in verify rewrap; do
  interrupted $command "$WORK/cipher3"
  rc=$?
  [ $rc = 130 ] && pass "$command that is interrupted ends with status 130" || fail "$command that is interrupted: exit status $rc"
  said "kmsfs $command" "names the command that goes on"
  expect 0 "which does" env KMSFS_HOME="$WORK/kms3" "$K" --passphrase-file "$WORK/pass" $command "$WORK/cipher3"
done
interrupted repair "$WORK/cipher3" --apply
rc=$?
[ $rc = 130 ] && pass "repair --apply that is interrupted ends with status 130" || fail "repair --apply that is interrupted: exit status $rc"
said "resume with: kmsfs repair $WORK/cipher3 --apply\$" "names the command that goes on, and not the one that only looks"
expect 14 "a key manager that is not there" env AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b "$K" --kms-endpoint http://127.0.0.1:9 kms ListKeys

say "a terminal, and where settings come from"
cat > "$WORK/terminal.py" <<'PYTHON'
# terminal.py ANSWER... -- COMMAND...: runs it on a terminal and gives an answer to each question for a passphrase: `^C` is that
# key, `kill N` a signal. Tells whether who comes after it sees what he types.
import os, pty, re, sys, termios, time
split = sys.argv.index("--")
answers, command = sys.argv[1:split], sys.argv[split + 1:]
pid, fd = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
seen, asked = b"", 0
while True:
    try:
        chunk = os.read(fd, 4096)
    except OSError:
        break
    if not chunk:
        break
    seen += chunk
    questions = len(re.findall(rb"(?:passphrase[^\n]*|again): ", seen, re.I))
    while asked < questions:
        if asked == len(answers):
            os.kill(pid, 15)
            break
        while termios.tcgetattr(fd)[3] & termios.ECHO:
            time.sleep(0.01)
        if answers[asked].startswith("kill "):
            os.kill(pid, int(answers[asked][5:]))
        else:
            os.write(fd, b"\x03" if answers[asked] == "^C" else answers[asked].encode() + b"\n")
        asked += 1
sys.stdout.write(seen.decode(errors="replace"))
print("asked %d times" % asked)
print("echo is on" if termios.tcgetattr(fd)[3] & termios.ECHO else "echo is off")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
PYTHON
on_terminal() { env KMSFS_HOME="$WORK/kms5" python3 "$WORK/terminal.py" "$@"; }
expect 0 "a first init on a terminal" on_terminal 'battery horse' 'battery horse' -- "$K" init "$WORK/cipher5"
said 'asked 2 times' "asks for the passphrase twice"
said '[0-9A-Z]{4,8}(-[0-9A-Z]{4,8}){5,}' "and prints a recovery key"
unsaid 'battery horse' "and does not show the passphrase"
expect 0 "the second attempt may be right" on_terminal wrong 'battery horse' -- "$K" verify "$WORK/cipher5"
said 'asked 2 times' "after one that is not"
expect 12 "three wrong ones end it" on_terminal a b c d -- "$K" verify "$WORK/cipher5"
said 'asked 3 times' "and no more are asked for"
for end in ^C 'kill 15' 'kill 1'; do
  fails "$end ends who asks" on_terminal "$end" -- "$K" verify "$WORK/cipher5"
  said 'echo is on' "and leaves the terminal as it was"
done
for command in "key list" "mount $WORK/cipher5 $WORK/m2"; do
  # shellcheck disable=SC2086 # words
  fails "^C ends $command" on_terminal ^C -- "$K" $command
  said 'echo is on' "and leaves the terminal as it was"
done
printf 'kms-home = "%s"\n' "$WORK/kms-of-file" > "$WORK/config.toml"
home_of() { env "${@:2}" "$K" $1 --json status > "$WORK/out" && jq -r .kms_home "$WORK/out"; }
[ "$(home_of "" -u KMSFS_HOME KMSFS_CONFIG="$WORK/config.toml")" = "$WORK/kms-of-file" ] && pass "a setting from the file" || fail "the file is not read"
[ "$(home_of "" KMSFS_HOME="$WORK/kms-of-env" KMSFS_CONFIG="$WORK/config.toml")" = "$WORK/kms-of-env" ] && pass "the environment beats it" || fail "the environment does not count"
[ "$(home_of "--kms-home $WORK/kms-of-flag" KMSFS_HOME="$WORK/kms-of-env" KMSFS_CONFIG="$WORK/config.toml")" = "$WORK/kms-of-flag" ] && pass "a flag beats both" || fail "the flag does not count"

say "plain names"
PN=$WORK/odd-plain
expect 0 "init --plain-names" "$K" init --plain-names "$PN"
said 'not encrypted' "says what that means"
mkdir "$PN.mnt"
expect 0 "mount" "$K" mount --daemon "$PN" "$PN.mnt"
mkdir "$PN.mnt/dir" && echo 'a plain secret' > "$PN.mnt/dir/README.md" && ln -s a-hidden-target "$PN.mnt/link"
echo x > "$PN.mnt/~Tide" && echo x > "$PN.mnt/.kmsfs"
expect 0 "a name is found in the ciphertext" test -f "$PN/dir/README.md"
fails "contents are not" grep -rq 'a plain secret' "$PN"
fails "nor targets" bash -c "readlink '$PN/link' | grep -q a-hidden-target"
expect 0 "names that are like kmsfs' own work" cat "$PN.mnt/~Tide" "$PN.mnt/.kmsfs"
expect 0 "info of a file" "$K" info --json "$PN.mnt/dir/README.md"
[ "$(jq -r .ciphertext_path "$WORK/out")" = "$PN/dir/README.md" ] && pass "its ciphertext has its name" || fail "the ciphertext path"
expect 0 "rewrap while mounted" "$K" rewrap "$PN"
expect 0 "unmount" "$K" umount "$PN.mnt"
expect 0 "info of the volume" "$K" info --json "$PN"
said 'plain_names' "names the feature"
expect 0 "verify" "$K" verify --json "$PN"
[ "$(jq .files "$WORK/out")" = 3 ] && pass "every file" || fail "not three files"

say "paths that are not UTF-8"
ODD=$WORK/$(printf 'odd\377')
mkdir "$ODD.mnt"
expect 0 "init" "$K" --json init "$ODD"
expect 0 "mount" "$K" --json mount --daemon "$ODD" "$ODD.mnt"
echo x > "$ODD.mnt/$(printf 'name\376')"
expect 0 "status" "$K" --json status
[ "$(jq '[.mounts[] | select(.version != null)] | length' "$WORK/out")" = 1 ] && pass "knows the mount's own answer" || fail "status has no answer of the mount"
expect 0 "info" "$K" --json info "$(find "$ODD" -maxdepth 1 -type f ! -name '.kmsfs*')"
expect 0 "info of a file in the mount" "$K" --json info "$ODD.mnt/$(printf 'name\376')"
expect 0 "rewrap" "$K" --json rewrap "$ODD"
expect 0 "verify" "$K" --json verify "$ODD"
expect 0 "unmount" "$K" --json umount "$ODD.mnt"
expect 0 "repair" "$K" --json repair "$ODD"
fails "unmount of what is not mounted" "$K" umount "$M"
cases_end
