#!/bin/bash
# strict.sh: a mount with key-state=strict, whose key is disabled, denied, without its grant, and scheduled for deletion: programs get EACCES
# within 5 seconds and nothing else, nothing that was written before is lost, and everything goes on when the key is back. Once with as
# much load as the machine bears: a large mapping that is dirtied without end, streams of writes, and many open files.
# Works as root and as an ordinary user. Environment: KMSFS_BIN, SUITE_WORK, LOAD_MIB (what the mapping and the streams write, each, default 512).
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
# The mount uses the key by a grant alone: the key's policy knows its user only.
volume=$("$K" --json status | jq -r --arg m "$M" '.mounts[] | select(.mountpoint == $m) | .volume_id')
give_grant() { grant=$("$K" --json grant create "$key" "role/kmsfs/$volume" Decrypt Encrypt GenerateDataKey DescribeKey ReEncryptFrom ReEncryptTo | jq -r .GrantId); }
give_grant
jq --arg me "arn:aws:iam::000000000000:user/$(id -un)" '.Statement = [{"Effect": "Allow", "Principal": {"AWS": $me}, "Action": "kms:*", "Resource": "*"}]' "$WORK/policy" > "$WORK/own"
check "a grant is all that lets the mount use the key" "$K" policy put "$key" "$WORK/own"
sleep 2
check "it is enough" cmp "$WORK/plain-copy" "$M/data"
round "grant revoked" '"$K" grant revoke $key $grant > /dev/null' give_grant
check "the policy as it was" "$K" policy put "$key" "$WORK/policy"
round "deletion scheduled" '"$K" key schedule-deletion $key > /dev/null' '"$K" key cancel-deletion $key > /dev/null; "$K" key enable $key > /dev/null'
# What was asked for and when it was so, by the clock that the bound is measured with.
in_bound() { # TEXT COMMAND...
  local text=$1
  shift
  until "$@" > /dev/null 2>&1; do
    [ "$(date +%s%N)" -lt $((began + BOUND * 1000000000)) ] || break
    sleep 0.02
  done
  local took=$((($(date +%s%N) - began) / 1000000))
  echo "$took ms" > "$OUT"
  if "$@" > /dev/null 2>&1 && [ $took -le $((BOUND * 1000)) ]; then pass "load: $text ($took ms)"; else fail "load: $text: not within $BOUND s"; fi
}
under_load() {
  local mib=${LOAD_MIB:-512} held=${LOAD_FILES:-1000} name
  local -A at=([stream1]=$((mib / 2)) [stream2]=$((mib / 2)) [flood]=$mib [held]=$held) does=([stream1]=stream [stream2]=stream [flood]=flood [held]=hold) pid=()
  for name in "${!at[@]}"; do
    "$HERE/strict.py" "${does[$name]}" "$M/$name" "$WORK/load-$name" "${at[$name]}" 2> /dev/null & pid[$name]=$! jobs+=($!)
  done
  for name in "${!at[@]}"; do within 120 "load: $name is at work" grep -q through "$WORK/load-$name"; done
  sleep 3
  grep -E '^(Dirty|Writeback):' /proc/meminfo | tr -s ' \n' ' ' | sed 's/^/        /;s/$/\n/'
  local closed
  closed=$(grep -c "data keys are gone" "$WORK/log")
  began=$(date +%s%N)
  "$K" key disable "$key" > /dev/null
  for name in stream1 stream2 held; do in_bound "$name is denied" grep -q "error EACCES" "$WORK/load-$name"; done
  in_bound "a file that is open is denied" refused read_open_file
  in_bound "the mapping is gone" ended "${pid[flood]}"
  in_bound "pages and data keys are gone" bash -c "[ \$(grep -c 'data keys are gone' '$WORK/log') -gt $closed ]"
  within 300 "load: what was written is flushed" bash -c "[ \$(grep -c 'were closed is flushed' '$WORK/log') -gt $closed ]"
  echo "        flushed after $((($(date +%s%N) - began) / 1000000)) ms"
  wait "${pid[@]}" 2> /dev/null
  "$K" key enable "$key" > /dev/null
  within $BOUND "load: the open file works again" read_open_file
  for name in "${!at[@]}"; do check "load: nothing of $name was lost" "$HERE/strict.py" check-load "$M/$name" "$WORK/load-$name" "${at[$name]}"; done
  rm -r "$M"/stream1 "$M"/stream2 "$M"/flood "$M"/held
}
under_load
check "another key is disabled" "$K" key disable "$spare"
sleep 2
check "another key has nothing to do with it" cmp "$WORK/plain-copy" "$M/data"
exec 7<&-
check "unmount" "$K" umount "$M"
check "verify" "$K" verify "$C"
cases_end
