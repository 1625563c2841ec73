#!/bin/bash
# strict.sh: a mount with key-state=strict, whose key is disabled, denied and scheduled for deletion under load: programs get EACCES
# within 5 seconds and nothing else, nothing that was written before is lost, and everything goes on when the key is back.
# Works as root and as an ordinary user. Environment: KMSFS_BIN, SUITE_WORK.
. "$(dirname "$0")/lib.sh"
volume_suite jq python3
BOUND=5
jobs=()
finish() {
  local job
  for job in "${jobs[@]}"; do kill "$job" 2> /dev/null; done
  [ "$failed" = 0 ] || cat "$WORK/log"
  volume_cleanup
}
trap finish EXIT
within() { # SECONDS TEXT COMMAND...: until it succeeds
  local end=$(($(date +%s%N) + $1 * 1000000000)) text=$2
  shift 2
  until "$@" > /dev/null 2>&1; do
    [ "$(date +%s%N)" -lt $end ] || { fail "$text: not in time"; return; }
    sleep 0.05
  done
  pass "$text"
}
refused() { # COMMAND...: with the words of EACCES
  ! LC_ALL=C "$@" > /dev/null 2> "$WORK/err" && grep -q "Permission denied" "$WORK/err"
}
read_open_file() { dd bs=1 count=1 of=/dev/null <&7; }
ended() { case $(ps -o stat= -p "$1") in "" | Z*) ;; *) false ;; esac; }

check "init" "$K" init "$C" --keyfile
key=$("$K" --json key create --alias own | jq -r .KeyMetadata.KeyId)
spare=$("$K" --json key create --alias spare | jq -r .KeyMetadata.KeyId)
check "a key of its own" "$K" rewrap "$C" --to "$key"
check "mount" "$K" mount --daemon -o key-state=strict --log-file "$WORK/log" "$C" "$M"
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
  within 10 "$text: and one through a mapping" grep -q mapped "$mapped"
  began=$(date +%s.%N)
  eval "$2"
  within $BOUND "$text: writes are denied within $BOUND s" grep -q "error EACCES" "$notes"
  within $BOUND "$text: a file that is open is denied, whatever the page cache held" refused read_open_file
  within $BOUND "$text: the mapping is gone" ended $mapper
  wait $mapper 2> /dev/null
  check "$text: a new open is denied" refused cat "$M/data"
  check "$text: names and sizes are there" [ "$(stat -c %s "$M/data")" = 1000000 ]
  grep "error EACCES" "$notes" | head -n 1 | awk -v b="$began" -v t="$text" '{printf "        %s: denied after %.1f s\n", t, $3 - b}'
  check "$text: the log names the key" grep -q "$key" "$WORK/log"
  local lines
  lines=$(grep -c durable "$notes")
  eval "$3"
  within $BOUND "$text: the open file works again" read_open_file
  within $BOUND "$text: the writer goes on" bash -c "[ \$(grep -c durable '$notes') -gt $((lines + 5)) ]"
  kill $writer
  wait $writer 2> /dev/null
  check "$text: nothing was lost, and nothing but EACCES was seen" "$HERE/strict.py" check "$M/written" "$notes"
  cat "$OUT"
  check "$text: what was written by way of a mapping is there" "$HERE/strict.py" check "$M/mapped" "$mapped"
  check "$text: the content" cmp "$WORK/plain-copy" "$M/data"
}

round "disabled" '"$K" key disable $key > /dev/null' '"$K" key enable $key > /dev/null'
"$K" --json policy get "$key" | jq -r .Policy > "$WORK/policy"
jq '.Statement += [{"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}]' "$WORK/policy" > "$WORK/denying"
round "denied by the key's policy" '"$K" policy put $key "$WORK/denying" > /dev/null' '"$K" policy put $key "$WORK/policy" > /dev/null'
round "deletion scheduled" '"$K" key schedule-deletion $key > /dev/null' '"$K" key cancel-deletion $key > /dev/null; "$K" key enable $key > /dev/null'
check "another key is disabled" "$K" key disable "$spare"
sleep 2
check "another key has nothing to do with it" cmp "$WORK/plain-copy" "$M/data"
exec 7<&-
check "unmount" "$K" umount "$M"
check "verify" "$K" verify "$C"
cases_end
