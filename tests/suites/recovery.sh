#!/bin/bash
# recovery.sh: a volume whose key manager's home is lost comes back from its recovery bundle, and a damaged volume from salvage
# and repair, through the real binary and real mounts. Works as root and as an ordinary user. Environment: KMSFS_BIN, SUITE_WORK.
. "$(dirname "$0")/lib.sh"
volume_suite jq

expect 0 "init" "$K" init "$C" --keyfile
key=$("$K" --json key create --alias own | jq -r .KeyMetadata.KeyId)
expect 0 "a key of its own" "$K" rewrap "$C" --to "$key"
expect 0 "mount" "$K" mount --daemon "$C" "$M"
mkdir -p "$M/d/e"
head -c 3000000 /dev/urandom > "$M/d/big"
echo hello > "$M/d/e/$(printf 'n%.0s' $(seq 200))"
ln -s ../big "$M/d/e/link"
ln "$M/d/big" "$M/hard"
expect 0 "the key is rotated" "$K" key rotate "$key"
echo "under the new material" > "$M/d/rotated"
other=$("$K" --json key create --alias other | jq -r .KeyMetadata.KeyId)
expect 0 "the volume moves to another key" "$K" rewrap "$C" --to "$other"
echo "under the other key" > "$M/d/moved"
cp -a "$M" "$WORK/expected"
expect 0 "export, while it is mounted" "$K" --json export-recovery "$C" --out "$WORK/bundle"
jq -r .recovery_key "$OUT.data" > "$WORK/recovery-key"
expect 1 "a bundle is never overwritten" "$K" export-recovery "$C" --out "$WORK/bundle"
expect 0 "unmount" "$K" umount "$M"
expect 0 "a second volume" "$K" init "$WORK/second"
expect 1 "the bundle does not hold its own key" grep -aqF -f "$WORK/recovery-key" "$WORK/bundle"
expect 0 "the audit log is shown" "$K" --json audit show
said ExportRecovery "and tells of the export"

rm -rf "$KMSFS_HOME"
export KMSFS_HOME=$WORK/other-computer/kms
mkdir -p "$WORK/other-computer"
expect 10 "without the home nothing opens" "$K" mount --daemon "$C" "$M"
tr A-Y B-Z < "$WORK/recovery-key" > "$WORK/wrong-key"
head -c 5000 "$WORK/bundle" > "$WORK/cut"
expect 16 "a bundle that is cut off" "$K" --recovery-key-file "$WORK/recovery-key" recover "$WORK/cut" "$C"
sed 's/"created": \([0-9]*\)/"created": 1\1/' "$WORK/bundle" > "$WORK/changed"
expect 16 "a bundle that was changed" "$K" --recovery-key-file "$WORK/recovery-key" recover "$WORK/changed" "$C"
expect 2 "a bundle of another volume" "$K" --recovery-key-file "$WORK/recovery-key" recover "$WORK/bundle" "$WORK/second"
expect 12 "a wrong recovery key" "$K" --recovery-key-file "$WORK/wrong-key" recover "$WORK/bundle"
expect 10 "nothing of these made a key manager" "$K" key list
expect 0 "recover" "$K" --recovery-key-file "$WORK/recovery-key" recover "$WORK/bundle" "$C" --keyfile
expect 1 "a key manager is never replaced" "$K" --recovery-key-file "$WORK/recovery-key" recover "$WORK/bundle"
expect 0 "mount with the recovered keys" "$K" mount --daemon "$C" "$M"
check "every file is as it was" diff -r --no-dereference "$WORK/expected" "$M"
echo more > "$M/new"
expect 0 "unmount" "$K" umount "$M"
expect 0 "verify" "$K" verify "$C"

echo "-- both configurations lost"
rm "$C/.kmsfs/volume" "$C/.kmsfs/volume.bak"
rm -rf "$KMSFS_HOME"
expect 0 "recover puts the configuration back" "$K" --recovery-key-file "$WORK/recovery-key" recover "$WORK/bundle" "$C" --keyfile
expect 0 "mount" "$K" mount --daemon "$C" "$M"
check "the new file is there" grep -qx more "$M/new"
expect 0 "unmount" "$K" umount "$M"

echo "-- a disabled key"
expect 0 "disable" "$K" key disable "$other"
expect 13 "the volume is closed" "$K" mount --daemon "$C" "$M"
expect 13 "and gives no bundle" "$K" export-recovery "$C" --out "$WORK/bundle-2"
check "not even the beginning of one" [ ! -e "$WORK/bundle-2" ]
expect 0 "enable" "$K" key enable "$other"

echo "-- damage"
big=$(find "$C" -type f -size +2M | head -n 1)
dd if=/dev/urandom of="$big" bs=4096 seek=100 count=3 conv=notrunc status=none
dir=$(dirname "$big")
rm "$dir/.kmsfs.dir"
expect 3 "verify" "$K" --json verify "$C"
cp "$OUT.data" "$WORK/found"
check "finds both" jq -e '[.findings[].outcome] | sort == ["NoDirId","UnitAuth"]' "$WORK/found"
expect 2 "salvage into the volume is refused" "$K" verify "$C" --salvage "$C/out"
expect 3 "salvage" "$K" --json verify "$C" --salvage "$WORK/saved"
cp "$OUT.data" "$WORK/found"
check "tells of the holes" jq -e '.lost_bytes == 3 * 4064 and .incomplete[0].holes[0].length == 3 * 4064' "$WORK/found"
check "what is sound is saved" diff -r --no-dereference "$WORK/expected/d/e" "$WORK/saved/d/e"
check "what lies before the damage is saved" cmp -n 400000 "$WORK/expected/d/big" "$WORK/saved/d/big"
check "and has its size" [ "$(stat -c %s "$WORK/saved/d/big")" = 3000000 ]
expect 3 "repair shows what it would do" "$K" repair "$C"
check "and changes nothing" [ ! -e "$dir/.kmsfs.dir" ]
expect 0 "repair" "$K" repair "$C" --apply
expect 0 "repair has nothing left to do" "$K" repair "$C"
expect 0 "mount" "$K" mount --daemon "$C" "$M"
check "the directory is back" diff -r --no-dereference "$WORK/expected/d/e" "$M/d/e"
expect 11 "no repair of a mounted volume" "$K" repair "$C" --apply
expect 0 "unmount" "$K" umount "$M"
notes=$WORK/notes
expect 3 "a run that notes what is sound" "$K" verify "$C" --resume "$notes"
check "the notes of a complete run are gone" [ ! -e "$notes" ]

echo "-- what is found comes to an end"
find "$C" -samefile "$big" -delete
expect 0 "mount" "$K" mount --daemon "$C" "$M"
head -c 9000 /dev/zero > "$M/only-its-size"
head -c 5000 /dev/urandom > "$M/headless"
expect 0 "unmount" "$K" umount "$M"
stored=$(find "$C" -type f -size 17256c)
truncate -s 0 "$stored" && truncate -s 17256 "$stored"
dd if=/dev/zero of="$(find "$C" -type f -size 13224c)" bs=4096 count=1 conv=notrunc status=none
expect 3 "verify" "$K" --json verify "$C"
check "finds both" jq -e '[.findings[].outcome] | sort == ["HeaderLost","NeverSynced"]' "$OUT.data"
expect 3 "repair puts one of them right and the other aside" "$K" repair "$C" --apply
said "What lies in lost.found and cannot be read stays a finding" "and says what becomes of it"
expect 3 "verify" "$K" --json verify "$C"
check "finds what was put aside only" jq -e '.findings | length == 1 and (.[0].path | startswith("lost+found/"))' "$OUT.data"
expect 0 "mount" "$K" mount --daemon "$C" "$M"
check "a file of which only the size was left is the zeros that it was" cmp -n 9000 "$M/only-its-size" /dev/zero
check "and as long" [ "$(stat -c %s "$M/only-its-size")" = 9000 ]
rm "$M"/lost+found/*.headless
expect 0 "unmount" "$K" umount "$M"
expect 0 "nothing is found any more" "$K" verify "$C"
expect 0 "nor to be repaired" "$K" repair "$C"
cases_end
