#!/usr/bin/env bash
# demo-volume.sh: the story of an encrypted EBS volume, in its simplest form.
#
# An image file inside a kmsfs mount is a block device (through a loop device): a filesystem is made on it, mounted and
# filled. Then its KMS key is disabled: what is attached goes on, the next attach is refused. The key is enabled, its
# deletion scheduled and cancelled. Beside each step stand the audit events it caused. Every claim is checked; the
# script ends with exit status 1 at the first one that does not hold. Everything it makes is removed at the end.
#
# Needs root and loop devices. Environment: KMSFS_BIN, DEMO_WORK (default: a temporary directory), DEMO_MIB (64).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
K=${KMSFS_BIN:-$(release_binary)}
[ "$(id -u)" = 0 ] || die "loop devices need root: run it with sudo"
[ -x "$K" ] || die "no binary at $K: run scripts/quickstart.sh or cargo build --release"
for tool in losetup mkfs.ext4 jq findmnt; do
  command -v $tool > /dev/null || die "needs $tool (apt-get install mount e2fsprogs jq util-linux)"
done
WORK=$(mktemp -d "${DEMO_WORK:-${TMPDIR:-/tmp}}/kmsfs-volume.XXXXXX")
export KMSFS_HOME=$WORK/kms
C=$WORK/cipher M=$WORK/plain V=$WORK/volume
mkdir -p "$M" "$V"
LOOP='' SEEN=0 CHECKS=0

detach() {
  if mountpoint -q "$V"; then umount "$V"; fi
  if [ -n "$LOOP" ]; then
    losetup -d "$LOOP" 2> /dev/null || true
    # The kernel lets go of the image a moment after the last user did.
    for _ in $(seq 50); do losetup "$LOOP" > /dev/null 2>&1 || break; sleep 0.1; done
    LOOP=''
  fi
}
cleanup() {
  local rc=$?
  set +e
  trap - EXIT
  detach
  if mountpoint -q "$M"; then "$K" umount "$M" > /dev/null 2>&1 || umount -l "$M"; fi
  rm -rf --one-file-system "$WORK"
  exit $rc
}
trap cleanup EXIT
trap 'exit 130' INT TERM

title() { printf '\n== %s\n' "$*"; }
run() { printf '   $ %s\n' "$*"; "$@"; }
claim() { # TEXT COMMAND...
  local text=$1
  shift
  if "$@" > "$WORK/out" 2>&1; then
    CHECKS=$((CHECKS + 1))
    printf '   ok: %s\n' "$text"
  else
    printf '   NOT SO: %s\n' "$text"
    sed 's/^/      /' "$WORK/out"
    exit 1
  fi
}
refused() { ! "$@"; }
# The audit records written since the last call, one line each; the records may come as lines, an array or an object with Records.
records() { "$K" audit show --json | jq -c 'if type == "array" then .[] elif has("Records") then .Records[] elif has("events") then .events[] else . end | select(.eventName)'; }
events() {
  local all n
  sleep 0.5   # the log is written in batches
  all=$(records)
  n=$(printf '%s\n' "$all" | grep -c . || true)
  printf '%s\n' "$all" | tail -n +$((SEEN + 1)) > "$WORK/new"
  SEEN=$n
  # Looking at a key is recorded too; only what tells the story is shown.
  jq -r 'select(.eventName | test("^(UnlockStore|Describe|List|Get)") | not) | "   audit: " + .eventName + (if .errorCode then "  DENIED " + .errorCode else "" end)
    + (if .requestParameters.encryptionContext then "  " + (.requestParameters.encryptionContext | tojson) else "" end)' "$WORK/new" | uniq -c |
    sed -E 's/^ *([0-9]+) (.*)$/\2 (x\1)/; s/ \(x1\)$//'
}
event() { claim "the audit log has $1" grep -q "\"eventName\":\"$1\"" "$WORK/new"; }
key_state() { "$K" key describe --json "$KEY" | jq -r '[.. | objects | .KeyState // empty] | first'; }
attach() {
  LOOP=$(losetup --find --show --sector-size 4096 "$M/volume.img") && mount "$LOOP" "$V"
}

title "1. A customer managed key, and a place for volumes under it"
"$K" init --keyfile "$C" > /dev/null
KEY=$("$K" key create --json | jq -r '[.. | objects | .KeyId // empty] | first')
claim "a key was made: $KEY" test -n "$KEY"
run "$K" mount --daemon "$C" "$M"
events
event CreateKey

title "2. Create: an image file with a data key of its own"
run truncate -s "${DEMO_MIB:-64}M" "$M/volume.img"
head -c 4096 /dev/zero | dd of="$M/volume.img" conv=notrunc status=none
sync "$M/volume.img"
"$K" umount "$M" > /dev/null
run "$K" rewrap "$C" --to "$KEY"
"$K" mount --daemon "$C" "$M"
claim "the image is under $KEY" sh -c "'$K' info --json '$M/volume.img' | grep -q '$KEY'"
events
event GenerateDataKey
event ReEncrypt

title "3. Attach: loop device, filesystem, mount, data"
LOOP=$(losetup --find --show --sector-size 4096 "$M/volume.img")
run mkfs.ext4 -q -F "$LOOP"
run mount "$LOOP" "$V"
head -c 4000000 /dev/urandom > "$WORK/data"
cp "$WORK/data" "$V/data"
echo "a secret on the volume" > "$V/note"
sync -f "$V"
claim "the data is on the volume" cmp "$WORK/data" "$V/data"
claim "the disk has no plaintext of it" refused grep -rq "a secret on the volume" "$C"
events
event Decrypt

title "4. The key is disabled: what is attached goes on"
run "$K" key disable "$KEY"
claim "its state is Disabled" test "$(key_state)" = Disabled
echo 3 > /proc/sys/vm/drop_caches
claim "reading goes on" cmp "$WORK/data" "$V/data"
claim "writing goes on, fsync included" sh -c "echo 'written while the key was disabled' > '$V/later' && sync '$V/later'"
events
event DisableKey

title "5. Detach, and attach again: refused"
detach
claim "the image can still be listed" stat "$M/volume.img"
claim "the attach is refused" refused attach
LOOP=
claim "with Permission denied, not an I/O error" sh -c "LC_ALL=C head -c 1 '$M/volume.img' 2>&1 | grep -q 'Permission denied'"
events
event Decrypt
claim "and it was denied for the key's state" grep -q '"errorCode":"DisabledException"' "$WORK/new"

title "6. The key is enabled: everything is back"
run "$K" key enable "$KEY"
attach
claim "the data is the same" cmp "$WORK/data" "$V/data"
claim "so is what was written while the key was disabled" grep -q "written while" "$V/later"
events
event EnableKey

title "7. Deletion is scheduled: attached goes on, the next attach is refused"
run "$K" key schedule-deletion "$KEY" --pending-window-in-days 7
claim "its state is PendingDeletion" test "$(key_state)" = PendingDeletion
claim "what is attached goes on" cmp "$WORK/data" "$V/data"
detach
claim "the next attach is refused" refused attach
LOOP=
events
event ScheduleKeyDeletion
claim "the refusal names the key's state" grep -q '"errorCode":"KMSInvalidStateException"' "$WORK/new"

title "8. Cancelled: the key is Disabled, and after enable the volume is back"
run "$K" key cancel-deletion "$KEY"
claim "its state is Disabled" test "$(key_state)" = Disabled
run "$K" key enable "$KEY"
attach
claim "the data is the same" cmp "$WORK/data" "$V/data"
events
event CancelKeyDeletion
detach
"$K" umount "$M"
claim "verify finds nothing" "$K" verify "$C"
printf '\n%d claims held.\n' $CHECKS
echo "cases: $CHECKS passed, 0 failed"
