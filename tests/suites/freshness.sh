#!/bin/bash
# freshness.sh: what somebody who holds the ciphertext directory does to a volume with a freshness record, through real
# mounts: each attack is noticed, everything else is served, accept clears what was named and nothing else, and a daemon
# that is killed at any moment is no attack. Environment: KMSFS_BIN, SUITE_WORK, FRESHNESS_ROUNDS (kills, default 8).
. "$(dirname "$0")/lib.sh"
volume_suite
unmount() { ! mountpoint -q "$M" || "$K" umount "$M" > /dev/null 2>&1 || fusermount3 -uz "$M"; }
mount_it() { "$K" mount --daemon "$C" "$M" > "$WORK/mount.out" 2>&1 || { cat "$WORK/mount.out"; fail "mount"; exit 1; }; }
# Where a file or directory of the mount lies in the ciphertext directory, by its inode number.
place() { find "$C" -path "$C/.kmsfs" -prune -o -inum "$(stat -c %i "$M/$1")" -print -quit; }
content() { seq "$2" 9000 | sed "s|^|$1 |"; }
FILES="a b d/x e/x e/y"
fill() { local f; for f in $FILES; do content "$f" "$1" > "$M/$f"; done; }
# Every file reads as its second version, but for those that are named: they fail with EIO.
served() { # TEXT [HARMED...]
  local text=$1 f rc bad=
  shift
  for f in $FILES; do
    cat "$M/$f" > "$WORK/read" 2> "$WORK/out"
    rc=$?
    case " $* " in
      *" $f "*) [ $rc != 0 ] && grep -q "Input/output error" "$WORK/out" || bad="$bad $f-is-served" ;;
      *) [ $rc = 0 ] && content "$f" 2 | cmp -s - "$WORK/read" || bad="$bad $f-is-not-served" ;;
    esac
  done
  if [ -z "$bad" ]; then pass "$text"; else fail "$text:$bad"; fi
}
# attack TEXT "HARMED" COMMAND...: an attack on the unmounted volume, which is put back as it was afterwards.
attack() {
  local text=$1 harmed=$2
  shift 2
  rm -rf "$WORK/saved" && cp -a "$C" "$WORK/saved" && cp -a "$KMSFS_HOME/freshness" "$WORK/saved.record"
  "$@"
  # shellcheck disable=SC2086
  expect 3 "$text: verify finds it" "$K" verify "$C"
  mount_it
  # shellcheck disable=SC2086
  served "$text: noticed, the rest is served" $harmed
  unmount
  mount_it
  # shellcheck disable=SC2086
  served "$text: still noticed after a mount" $harmed
  unmount
  rm -rf "$C" "$KMSFS_HOME/freshness" && cp -a "$WORK/saved" "$C" && mv "$WORK/saved.record" "$KMSFS_HOME/freshness"
}
swap() { mv "$1" "$1.tmp" && mv "$2" "$1" && mv "$1.tmp" "$2"; }

expect 0 "init --freshness" "$K" init --keyfile --freshness "$C"
mount_it
mkdir "$M/d" "$M/e"
fill 1
unmount
cp -a "$C" "$WORK/first"
mount_it
fill 2
for f in $FILES d e; do eval "P_$(echo $f | tr / _)=\$(place $f)"; done
unmount
mount_it
served "nothing is noticed without an attack"
compared() { "$K" --json verify "$C" 2> /dev/null | grep -q "\"compared_with_freshness_record\": $1"; }
expect 0 "verify of a mounted volume compares, by the mount" compared true
expect 0 "and finds nothing" "$K" verify "$C"
# The kernel has the name, so that nobody asks for it: only verify sees what was done below the mount.
stat "$M/a" "$M/b" > /dev/null
A=$(place a)
mv "$A" "$WORK/aside"
expect 3 "verify of a mounted volume: a file that was removed is noticed" "$K" verify "$C"
mv "$WORK/aside" "$A"
cp "$A" "$WORK/aside" && dd if="$WORK/first${A#"$C"}" of="$A" bs=4096 skip=2 seek=2 count=1 conv=notrunc status=none
expect 3 "verify of a mounted volume: an older unit is noticed" "$K" verify "$C"
cat "$WORK/aside" > "$A"
expect 0 "verify of a mounted volume: nothing is left of it" "$K" verify "$C"
# Beside a writer: what changes meanwhile is no finding.
(while [ ! -e "$WORK/enough" ]; do for i in 1 2 3 4 5 6 7; do content $i 8900 > "$M/busy$i"; mv "$M/busy$i" "$M/d/busy$i"; rm "$M/d/busy$i"; done; done) &
writer=$!
for round in 1 2 3 4 5 6; do expect 0 "verify of a mounted volume beside a writer, round $round" "$K" verify "$C"; done
touch "$WORK/enough"
wait $writer
expect 0 "verify that goes on where it was says that it does not compare" sh -c '"$1" --json verify "$2" --resume "$3" 2> /dev/null | grep -q "\"compared_with_freshness_record\": false"' sh "$K" "$C" "$WORK/notes"
unmount

# A mount that is in use is ended by a signal: names are recorded, too.
mount_it
exec 7< "$M/b"
mv "$M/a" "$M/renamed"
P=$(place renamed)
kill -TERM "$(sed -n 's/^pid=//p' "$C/.kmsfs/lock")"
for _ in $(seq 300); do mountpoint -q "$M" || break; sleep 0.1; done
exec 7<&-
for _ in $(seq 100); do "$K" verify "$C" > "$WORK/out" 2>&1; [ $? = 11 ] || break; sleep 0.1; done
expect 0 "ended by a signal in use: verify finds nothing" "$K" verify "$C"
mv "$P" "$A"
expect 3 "ended by a signal in use: a name that is put back is noticed" "$K" verify "$C"
mv "$A" "$P"
mount_it
mv "$M/renamed" "$M/a"
unmount
expect 0 "verify says that it compares" compared true
expect 0 "verify finds nothing" "$K" verify "$C"
# shellcheck disable=SC2154
{
old() { echo "$WORK/first${1#"$C"}"; }
attack "two files swapped" "a b" swap "$P_a" "$P_b"
attack "two directories swapped" "d/x e/x e/y" swap "$P_d" "$P_e"
attack "a file removed" "a" rm "$P_a"
attack "a directory removed" "d/x" rm -r "$P_d"
attack "a file moved over another" "a b" mv "$P_a" "$P_b"
attack "a file copied over another" "b" cp "$P_a" "$P_b"
attack "an older file" "a" cp "$(old "$P_a")" "$P_a"
attack "an older unit" "a" dd if="$(old "$P_a")" of="$P_a" bs=4096 skip=2 seek=2 count=1 conv=notrunc status=none
attack "an older header" "a" dd if="$(old "$P_a")" of="$P_a" bs=4096 count=1 conv=notrunc status=none
attack "a file cut short" "a" truncate -s $((4096 + 4096 + 4064)) "$P_a"
attack "an older directory" "e/x e/y" sh -c "rm -r '$P_e' && cp -a '$(old "$P_e")' '$P_e'"
whole() { for p in "$P_a" "$P_b" "$P_d_x" "$P_e_x" "$P_e_y"; do cp "$(old "$p")" "$p"; done; }
attack "an older volume" "$FILES" whole

# An intended restore.
cp "$P_b" "$P_a" && cp "$(old "$P_e_x")" "$P_e_x" && rm "$P_d_x"
mount_it; served "three files restored and removed" a d/x e/x; unmount
expect 0 "accept of one file" "$K" accept "$C" e/x
mount_it
if content e/x 1 | cmp -s - "$M/e/x"; then pass "what was accepted is served"; else fail "what was accepted is served"; fi
FILES="a b d/x e/y" served "the others are still noticed" a d/x
unmount
}
cp -a "$WORK/saved/." "$C/"
expect 0 "accept of the whole volume" "$K" accept "$C"
mount_it; served "everything is as it was accepted"; unmount
expect 0 "verify finds nothing" "$K" verify "$C"
expect 0 "the audit log is shown" "$K" audit show --json
said AcceptVolumeContent "it is in the audit log"

# With a damaged record, and without one.
record=("$KMSFS_HOME"/freshness/*.db)
harm() {
  python3 - "${record[0]}" "$1" << 'PYTHON'
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
changed = db.execute(sys.argv[2]).rowcount
db.commit()
sys.exit(changed < 1)
PYTHON
}
harm "UPDATE entries SET mac = zeroblob(16) WHERE name = '$(basename "$P_a")'" || fail "the row of a"
expect 3 "verify finds a damaged row of a name" "$K" verify "$C"
said "^Unvouched  a" "and says that it is the record, and which name"
mount_it; served "a damaged row costs its name" a
expect 0 "the name is listed" sh -c 'ls "$1" | grep -qx a' sh "$M"
unmount
expect 0 "accept of that name" "$K" accept "$C" a
mount_it; served "which is mended then"; unmount
expect 0 "verify finds nothing after it" "$K" verify "$C"
harm "UPDATE files SET mac = zeroblob(16)" && harm "UPDATE epochs SET mac = zeroblob(16)" || fail "the rows of files and epochs"
# shellcheck disable=SC2086
{ mount_it; served "without a sound row no file is served" $FILES; unmount; }
expect 0 "accept of the whole volume begins a new record" "$K" accept "$C"
said "it is kept as ${record[0]}.damaged" "and keeps the damaged one"
mount_it; served "and the volume is served again"; unmount
expect 0 "verify finds nothing with the new record" "$K" verify "$C"
dd if=/dev/urandom of="${record[0]}" bs=4096 count=3 conv=notrunc status=none
expect 16 "no mount with a record that is no database" "$K" mount --daemon "$C" "$M"
said "kmsfs accept DIR" "it is said what to do"
expect 16 "no accept of a part either" "$K" accept "$C" a
said "kmsfs accept $C" "and it is said why"
sum=$(sha256sum < "${record[0]}")
expect 0 "accept of the whole volume" "$K" accept "$C"
said "${record[0]}.damaged.2" "it is said where the damaged one is"
if [ "$(sha256sum < "${record[0]}.damaged.2")" = "$sum" ] && [ -e "${record[0]}.damaged" ]; then pass "both are there as they were"; else fail "a damaged record was changed"; fi
mount_it; served "and the volume is served once more"; unmount
mv "$KMSFS_HOME/freshness" "$WORK/lost"
expect 16 "no mount without the record" "$K" mount --daemon "$C" "$M"
expect 0 "accept begins a new one" "$K" accept "$C"
mount_it; served "and the volume is served"; unmount
rm -rf "$WORK/lost"

# A home has one record of a volume, whatever copies or snapshots of it there are: one of them at a time has it.
copy=$WORK/copy
cp -a "$C" "$copy" && mkdir "$WORK/plain.copy"
refused() { # WHERE CODE
  expect "$2" "$1: a copy is not mounted" "$K" mount --daemon "$copy" "$WORK/plain.copy"
  said "in use by process [0-9]* on host .* .mount $M of $C.: " "$1: it is said who has the record"
  said "unmount that copy first" "$1: and what to do"
  expect "$2" "$1: nor read-only" "$K" mount --ro --daemon "$copy" "$WORK/plain.copy"
  expect "$2" "$1: nor accepted" "$K" accept "$copy"
  expect "$2" "$1: nor is a file of it" "$K" accept "$copy" a
}
mount_it
mkdir "$WORK/second"
for ro in "" --ro; do
  # shellcheck disable=SC2086  # a flag, or none
  expect 11 "a second mount${ro:+ with $ro} of a mounted volume" "$K" mount $ro --daemon "$C" "$WORK/second"
  said "one mount at a time, a read-only one too" "says that it has one"
  unsaid "mount (it )?(with )?--ro" "and does not tell to mount it with --ro"
done
refused "beside the volume" 11
expect 0 "beside the volume: a copy is verified" "$K" verify "$copy"
expect 0 "beside the volume: and read" "$K" verify "$copy" --salvage "$WORK/salvaged"
expect 0 "beside a refused mount of a copy: what is written is stored" sh -c 'echo new > "$1/new" && sync "$1/new" && rm "$1/new"' sh "$M"
served "beside a refused mount of a copy: everything is served"
kill -9 "$(sed -n 's/^pid=//p' "$C/.kmsfs/lock")"
expect 0 "a killed mount has the record no more" "$K" mount --daemon "$copy" "$WORK/plain.copy"
fusermount3 -uz "$M" 2> /dev/null || umount -l "$M"
expect 11 "beside a copy: the volume is not mounted" "$K" mount --daemon "$C" "$M"
said "(mount $WORK/plain.copy of $copy)" "beside a copy: it is said which has the record"
expect 0 "umount of the copy" "$K" umount "$WORK/plain.copy"
mount_it; served "when the copy is unmounted: the volume is served"; unmount
expect 0 "when the copy is unmounted: verify" "$K" verify "$C"
rm -rf "$copy"

# A restore beside what lives: what is accepted is readable, and so is the rest, both before and after it is written.
volume=$C C=$WORK/beside
"$K" init --keyfile --freshness --plain-names "$C" > /dev/null 2>&1 || fail "init $C"
reads() { # TEXT FILE=CONTENT...
  local text=$1 pair bad=
  shift
  mount_it
  for pair in "$@"; do [ "$(cat "$M/${pair%%=*}" 2>&1)" = "${pair#*=}" ] || bad="$bad ${pair%%=*}"; done
  unmount
  if [ -z "$bad" ]; then pass "$text"; else fail "$text:$bad"; fi
}
mount_it
mkdir "$M/x" "$M/y"
for f in a report; do echo monday > "$M/$f"; done
: > "$M/x/e1"
ln "$M/x/e1" "$M/y/e2"
echo both > "$M/x/l1"
ln "$M/x/l1" "$M/y/l2"
unmount
cp -a "$C" "$C.bak"
mount_it
echo tuesday > "$M/a"
ln "$M/a" "$M/b"
mv "$M/report" "$M/report.old"
echo more >> "$M/report.old"
unmount
cp -a --remove-destination "$C.bak/a" "$C/a"
expect 3 "one name of a linked file is restored: verify" "$K" verify "$C"
expect 0 "one name of a linked file is restored: accept" "$K" accept "$C" a
reads "both names are read" a=monday b=tuesday
expect 0 "verify finds nothing then" "$K" verify "$C"
cp -a "$C.bak/report" "$C/report"
expect 0 "a file is restored beside its newer one: accept" "$K" accept "$C" report
reads "both are read" report=monday "report.old=monday
more" b=tuesday
for f in x y; do rm -rf "${C:?}/$f" && cp -r --no-preserve=links,timestamps "$C.bak/$f" "$C/" && cp -a "$C.bak/$f/.kmsfs.dir" "$C/$f/"; done
expect 3 "linked files are restored one by one: verify" "$K" verify "$C"
said "^Misplaced .*e[12]" "of empty files it is told"
said "^DuplicateId .*l[12]" "of others, too"
expect 0 "linked files are restored one by one: accept" "$K" accept "$C" x y
mount_it
for f in x/e1 y/e2 x/l1 a report; do echo "$f" > "$M/$f" || fail "$f is written"; done
unmount
reads "what was accepted is written and read by itself" x/e1=x/e1 y/e2=y/e2 x/l1=x/l1 y/l2=both a=a b=tuesday report=report "report.old=monday
more"
mount_it
for f in y/e2 y/l2 report.old; do cat "$M/$f" > "$M/again" && mv "$M/again" "$M/$f" || fail "$f is made again"; done
unmount
expect 0 "made again inside the mount: verify finds nothing" "$K" verify "$C"
expect 2 "accept of a name that never was" "$K" accept "$C" typo
said "there is no 'typo'" "it is said"
rm "$C/a"
expect 0 "accept of a name that is gone" "$K" accept "$C" a
expect 2 "once" "$K" accept "$C" a
C=$volume

# A restored volume has other inodes, numbers among them that were other files'. A crash of it is none either: its empty files are taken for
# nobody else's, and names of one file stay one file's.
volume=$C
for how in as-it-is accepted; do
  C=$WORK/restored.$how
  before=$(ls "$KMSFS_HOME/freshness")
  "$K" init --keyfile --freshness "$C" > /dev/null 2>&1 || fail "init $C"
  mount_it
  mkdir "$M/d1" "$M/d2"
  for i in $(seq 20); do : > "$M/d1/$i"; : > "$M/d2/$i"; done
  : > "$M/d1/one"
  ln "$M/d1/one" "$M/d2/two"
  unmount
  cp -a "$C" "$C.backup" && rm -rf "$C" && cp -a "$C.backup" "$C"
  if [ $how = accepted ]; then
    for file in "$KMSFS_HOME"/freshness/*; do [[ $before = *${file##*/}* ]] || rm -f "$file"; done
    expect 0 "restored, its record lost: accept" "$K" accept "$C"
  fi
  mount_it
  echo new > "$M/d2/new"
  kill -9 "$(sed -n 's/^pid=//p' "$C/.kmsfs/lock")"
  fusermount3 -uz "$M" 2> /dev/null || umount -l "$M"
  mount_it
  for i in $(seq 20) two; do echo "$i" 2>> "$WORK/out" > "$M/d2/$i" || fail "restored, $how, killed: d2/$i is written"; done
  expect 0 "restored, $how, killed: everything is read" sh -c "cat '$M'/d1/* '$M'/d2/*"
  for i in $(seq 20); do [ ! -s "$M/d1/$i" ] && [ "$(cat "$M/d2/$i")" = "$i" ] || fail "restored, $how, killed: $i has its own content"; done
  if [ "$(cat "$M/d1/one")" = two ]; then pass "restored, $how, killed: names of one file stay one file's"; else fail "restored, $how: one"; fi
  unmount
  expect 0 "restored, $how, killed: verify" "$K" verify "$C"
done
C=$volume

# The daemon is killed while files are written, renamed and removed.
for round in $(seq "${FRESHNESS_ROUNDS:-8}"); do
  mount_it
  pid=$(sed -n 's/^pid=//p' "$C/.kmsfs/lock")
  (
    i=0
    while :; do
      i=$((i + 1))
      mkdir -p "$M/w$((i % 3))" && content "$i" 8000 > "$M/w$((i % 3))/f$((i % 20))" || exit 0
      [ $((i % 4)) != 0 ] || mv "$M/w$((i % 3))/f$((i % 20))" "$M/w$(((i + 1) % 3))/g$((i % 7))" || exit 0
      [ $((i % 5)) != 0 ] || sync -f "$M/w$((i % 3))" || exit 0
      [ $((i % 6)) != 0 ] || rm -f "$M"/w0/f1* || exit 0
      [ $((i % 7)) != 0 ] || ln -f "$M/w$((i % 3))/f$((i % 20))" "$M/w0/hard" || exit 0
    done
  ) > /dev/null 2>&1 &
  writer=$!
  sleep "0.$((RANDOM % 9 + 1))"
  kill -9 "$pid"
  wait $writer 2> /dev/null
  fusermount3 -uz "$M" 2> /dev/null || umount -l "$M"
  mount_it
  expect 0 "killed, round $round: everything is read" sh -c "find '$M' -type f -exec cat {} + > /dev/null"
  served "killed, round $round: what was there is there"
  unmount
done
expect 0 "verify finds nothing after all" "$K" verify "$C"
cases_end
