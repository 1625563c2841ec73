#!/bin/bash
# strict.sh: a mount with key-state=strict, whose key is disabled, denied and scheduled for deletion under load: programs get EACCES
# within 5 seconds and nothing else, nothing that was written before is lost, and everything goes on when the key is back.
# Works as root and as an ordinary user. Environment: KMSFS_BIN, SUITE_WORK.
set -eu
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
K=${KMSFS_BIN:-$(cd "$HERE/../.." && pwd)/target/release/kmsfs}
command -v jq > /dev/null || { echo "strict: needs jq (apt-get install jq)" >&2; exit 2; }
[ -x "$K" ] || { echo "strict: no binary at $K (cargo build --release)" >&2; exit 2; }
WORK=$(mktemp -d "${SUITE_WORK:-${TMPDIR:-/tmp}}/kmsfs-strict.XXXXXX")
unset KMSFS_CONFIG KMSFS_KMS_ENDPOINT
export KMSFS_HOME=$WORK/kms
C=$WORK/cipher M=$WORK/plain BOUND=5
mkdir -p "$M"
jobs=()
cleanup() {
  for job in "${jobs[@]}"; do kill "$job" 2> /dev/null || true; done
  ! mountpoint -q "$M" || "$K" umount "$M" || fusermount3 -uz "$M"
  rm -rf "$WORK"
}
trap cleanup EXIT
passed=0
ok() { passed=$((passed + 1)); echo "ok      $1"; }
fail() { echo "FAILED  $1"; cat "$WORK/log" || true; exit 1; }
run() { # TEXT COMMAND...
  local text=$1
  shift
  "$@" > "$WORK/out" 2>&1 || { cat "$WORK/out"; fail "$text"; }
  ok "$text"
}
within() { # SECONDS TEXT COMMAND...: until it succeeds
  local end=$(($(date +%s%N) + $1 * 1000000000)) text=$2
  shift 2
  until "$@" > /dev/null 2>&1; do
    [ "$(date +%s%N)" -lt $end ] || fail "$text: not in time"
    sleep 0.05
  done
  ok "$text"
}
refused() { # COMMAND...: with the words of EACCES
  ! LC_ALL=C "$@" > /dev/null 2> "$WORK/err" && grep -q "Permission denied" "$WORK/err"
}
read_open_file() { dd bs=1 count=1 of=/dev/null <&7; }
ended() { case $(ps -o stat= -p "$1") in "" | Z*) ;; *) false ;; esac; }

run "init" "$K" init "$C" --keyfile
key=$("$K" --json key create --alias own | jq -r .KeyMetadata.KeyId)
spare=$("$K" --json key create --alias spare | jq -r .KeyMetadata.KeyId)
run "a key of its own" "$K" rewrap "$C" --to "$key"
run "mount" "$K" mount --daemon -o key-state=strict --log-file "$WORK/log" "$C" "$M"
head -c 1000000 /dev/urandom > "$WORK/plain-copy"
cp "$WORK/plain-copy" "$M/data"
cat "$M/data" > /dev/null
exec 7< "$M/data"

round() { # TEXT TAKE GIVE-BACK
  local text=$1 notes=$WORK/notes mapped=$WORK/mapped began
  rm -f "$notes" "$mapped"
  "$HERE/strict.py" write "$M/written" "$notes" & jobs+=($!)
  local writer=$!
  "$HERE/strict.py" map "$M/mapped" "$mapped" 2> /dev/null & jobs+=($!)
  local mapper=$!
  within 10 "$text: programs are at work" grep -q "durable 20 " "$notes"
  began=$(date +%s.%N)
  eval "$2"
  within $BOUND "$text: writes are denied within $BOUND s" grep -q "error EACCES" "$notes"
  within $BOUND "$text: a file that is open is denied, whatever the page cache held" refused read_open_file
  within $BOUND "$text: the mapping is gone" ended $mapper
  wait $mapper 2> /dev/null || true
  run "$text: a new open is denied" refused cat "$M/data"
  [ "$(stat -c %s "$M/data")" = 1000000 ] || fail "$text: names and sizes are there"
  grep "error EACCES" "$notes" | head -n 1 | awk -v b="$began" -v t="$text" '{printf "        %s: denied after %.1f s\n", t, $3 - b}'
  grep -q "$key" "$WORK/log" || fail "$text: the log names the key"
  local lines
  lines=$(grep -c durable "$notes")
  eval "$3"
  within $BOUND "$text: the open file works again" read_open_file
  within $BOUND "$text: the writer goes on" bash -c "[ \$(grep -c durable '$notes') -gt $((lines + 5)) ]"
  kill $writer
  wait $writer 2> /dev/null || true
  run "$text: nothing was lost, and nothing but EACCES was seen" "$HERE/strict.py" check "$M/written" "$notes"
  cat "$WORK/out"
  run "$text: what was written by way of a mapping is there" "$HERE/strict.py" check "$M/mapped" "$mapped"
  cmp "$WORK/plain-copy" "$M/data" || fail "$text: the content"
}

round "disabled" '"$K" key disable $key > /dev/null' '"$K" key enable $key > /dev/null'
"$K" --json policy get "$key" | jq -r .Policy > "$WORK/policy"
jq '.Statement += [{"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}]' "$WORK/policy" > "$WORK/denying"
round "denied by the key's policy" '"$K" policy put $key "$WORK/denying" > /dev/null' '"$K" policy put $key "$WORK/policy" > /dev/null'
round "deletion scheduled" '"$K" key schedule-deletion $key > /dev/null' '"$K" key cancel-deletion $key > /dev/null; "$K" key enable $key > /dev/null'
run "another key is disabled" "$K" key disable "$spare"
sleep 2
cmp "$WORK/plain-copy" "$M/data" || fail "another key has nothing to do with it"
exec 7<&-
run "unmount" "$K" umount "$M"
run "verify" "$K" verify "$C"
echo "cases: $passed passed"
