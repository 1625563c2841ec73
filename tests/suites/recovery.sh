#!/bin/bash
# recovery.sh: a volume whose key manager's home is lost comes back from its recovery bundle, and a damaged volume from salvage
# and repair, through the real binary and real mounts. Works as root and as an ordinary user. Environment: KMSFS_BIN, SUITE_WORK.
set -eu
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
K=${KMSFS_BIN:-$(cd "$HERE/../.." && pwd)/target/release/kmsfs}
command -v jq >/dev/null || { echo "recovery: needs jq (apt-get install jq)" >&2; exit 2; }
[ -x "$K" ] || { echo "recovery: no binary at $K (cargo build --release)" >&2; exit 2; }
WORK=$(mktemp -d "${SUITE_WORK:-${TMPDIR:-/tmp}}/kmsfs-recovery.XXXXXX")
unset KMSFS_CONFIG KMSFS_KMS_ENDPOINT
C=$WORK/cipher M=$WORK/plain
mkdir -p "$M"
cleanup() {
  ! mountpoint -q "$M" || "$K" umount "$M" || fusermount3 -uz "$M"
  rm -rf "$WORK"
}
trap cleanup EXIT
passed=0
ok() { passed=$((passed + 1)); echo "ok      $1"; }
fail() { echo "FAILED  $1"; exit 1; }
status() { # EXIT-STATUS TEXT COMMAND...
  local want=$1 text=$2 rc=0
  shift 2
  "$@" > "$WORK/out" 2> "$WORK/err" < /dev/null || rc=$?
  if [ $rc = "$want" ]; then ok "$text"; else cat "$WORK/out" "$WORK/err"; fail "$text: exit status $rc, not $want"; fi
}

export KMSFS_HOME=$WORK/kms
status 0 "init" "$K" init "$C" --keyfile
key=$("$K" --json key create --alias own | jq -r .KeyMetadata.KeyId)
status 0 "a key of its own" "$K" rewrap "$C" --to "$key"
status 0 "mount" "$K" mount --daemon "$C" "$M"
mkdir -p "$M/d/e"
head -c 3000000 /dev/urandom > "$M/d/big"
echo hello > "$M/d/e/$(printf 'n%.0s' $(seq 200))"
ln -s ../big "$M/d/e/link"
ln "$M/d/big" "$M/hard"
status 0 "the key is rotated" "$K" key rotate "$key"
echo "under the new material" > "$M/d/rotated"
other=$("$K" --json key create --alias other | jq -r .KeyMetadata.KeyId)
status 0 "the volume moves to another key" "$K" rewrap "$C" --to "$other"
echo "under the other key" > "$M/d/moved"
cp -a "$M" "$WORK/expected"
status 0 "export, while it is mounted" "$K" --json export-recovery "$C" --out "$WORK/bundle"
jq -r .recovery_key "$WORK/out" > "$WORK/recovery-key"
status 1 "a bundle is never overwritten" "$K" export-recovery "$C" --out "$WORK/bundle"
status 0 "unmount" "$K" umount "$M"
status 0 "a second volume" "$K" init "$WORK/second"
if grep -aq "$(cat "$WORK/recovery-key")" "$WORK/bundle"; then fail "the bundle holds its own key"; fi
"$K" --json audit show | grep -q ExportRecovery || fail "the audit log does not tell of the export"
ok "the audit log tells of the export"

rm -rf "$KMSFS_HOME"
export KMSFS_HOME=$WORK/other-computer/kms
mkdir -p "$WORK/other-computer"
status 10 "without the home nothing opens" "$K" mount --daemon "$C" "$M"
tr A-Y B-Z < "$WORK/recovery-key" > "$WORK/wrong-key"
head -c 5000 "$WORK/bundle" > "$WORK/cut"
status 16 "a bundle that is cut off" "$K" --recovery-key-file "$WORK/recovery-key" recover "$WORK/cut" "$C"
sed 's/"created": \([0-9]*\)/"created": 1\1/' "$WORK/bundle" > "$WORK/changed"
status 16 "a bundle that was changed" "$K" --recovery-key-file "$WORK/recovery-key" recover "$WORK/changed" "$C"
status 2 "a bundle of another volume" "$K" --recovery-key-file "$WORK/recovery-key" recover "$WORK/bundle" "$WORK/second"
status 12 "a wrong recovery key" "$K" --recovery-key-file "$WORK/wrong-key" recover "$WORK/bundle"
status 10 "nothing of these made a key manager" "$K" key list
status 0 "recover" "$K" --recovery-key-file "$WORK/recovery-key" recover "$WORK/bundle" "$C" --keyfile
status 1 "a key manager is never replaced" "$K" --recovery-key-file "$WORK/recovery-key" recover "$WORK/bundle"
status 0 "mount with the recovered keys" "$K" mount --daemon "$C" "$M"
diff -r --no-dereference "$WORK/expected" "$M" || fail "the contents differ"
ok "every file is as it was"
echo more > "$M/new"
status 0 "unmount" "$K" umount "$M"
status 0 "verify" "$K" verify "$C"

echo "-- both configurations lost"
rm "$C/.kmsfs/volume" "$C/.kmsfs/volume.bak"
rm -rf "$KMSFS_HOME"
status 0 "recover puts the configuration back" "$K" --recovery-key-file "$WORK/recovery-key" recover "$WORK/bundle" "$C" --keyfile
status 0 "mount" "$K" mount --daemon "$C" "$M"
[ "$(cat "$M/new")" = more ] || fail "the new file"
status 0 "unmount" "$K" umount "$M"

echo "-- a disabled key"
status 0 "disable" "$K" key disable "$other"
status 13 "the volume is closed" "$K" mount --daemon "$C" "$M"
status 13 "and gives no bundle" "$K" export-recovery "$C" --out "$WORK/bundle-2"
[ ! -e "$WORK/bundle-2" ] || fail "a bundle was begun"
status 0 "enable" "$K" key enable "$other"

echo "-- damage"
big=$(find "$C" -type f -size +2M | head -n 1)
dd if=/dev/urandom of="$big" bs=4096 seek=100 count=3 conv=notrunc status=none
dir=$(dirname "$big")
rm "$dir/.kmsfs.dir"
status 3 "verify" "$K" --json verify "$C"
jq -e '[.findings[].outcome] | sort == ["NoDirId","UnitAuth"]' "$WORK/out" > /dev/null || fail "the findings: $(cat "$WORK/out")"
status 2 "salvage into the volume is refused" "$K" verify "$C" --salvage "$C/out"
status 3 "salvage" "$K" --json verify "$C" --salvage "$WORK/saved"
jq -e '.lost_bytes == 3 * 4064 and .incomplete[0].holes[0].length == 3 * 4064' "$WORK/out" > /dev/null || fail "the holes: $(cat "$WORK/out")"
diff -r --no-dereference "$WORK/expected/d/e" "$WORK/saved/d/e" || fail "what is sound was saved"
cmp -n 400000 "$WORK/expected/d/big" "$WORK/saved/d/big" || fail "what lies before the damage was saved"
[ "$(stat -c %s "$WORK/saved/d/big")" = 3000000 ] || fail "the size"
status 3 "repair shows what it would do" "$K" repair "$C"
[ ! -e "$dir/.kmsfs.dir" ] || fail "a plan changed something"
status 0 "repair" "$K" repair "$C" --apply
status 0 "repair has nothing left to do" "$K" repair "$C"
status 0 "mount" "$K" mount --daemon "$C" "$M"
diff -r --no-dereference "$WORK/expected/d/e" "$M/d/e" || fail "the directory is back"
status 11 "no repair of a mounted volume" "$K" repair "$C" --apply
status 0 "unmount" "$K" umount "$M"
notes=$WORK/notes
status 3 "a run that notes what is sound" "$K" verify "$C" --resume "$notes"
[ ! -e "$notes" ] || fail "the notes of a complete run stay behind"
echo "cases: $passed passed"
