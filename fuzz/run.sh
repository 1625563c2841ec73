#!/usr/bin/env bash
# run.sh [SECONDS=600] [TARGET...]: runs every target for so many seconds of processor time, JOBS (default 1) at once, at idle priority; adds
# to corpus/ what a merge keeps of it (at most KEEP=60 inputs a target, the smallest), and prints a row for README.md. Starts nothing more
# after a crash, whose input is in artifacts/. FUZZ_BIN: directory of targets that are built already.
set -uo pipefail
cd "$(dirname "$0")" || exit
export seconds=600
if [[ ${1:-} =~ ^[0-9]+$ ]]; then seconds=$1; shift; fi
if [ -z "${FUZZ_BIN:-}" ]; then
  cargo +nightly fuzz build -s none -O || exit
  FUZZ_BIN=${CARGO_TARGET_DIR:-target}/x86_64-unknown-linux-gnu/release
fi
export FUZZ_BIN
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(basename -s .rs fuzz_targets/*.rs)

# processor_seconds PID: user and system time; fails when it has ended. The name in front of them may hold anything but a newline.
processor_seconds() {
  local fields
  fields=$(sed 's/.*) //' "/proc/$1/stat" 2> /dev/null) || return
  # shellcheck disable=SC2086 # to be split
  set -- $fields
  [ "$1" != Z ] && echo $(((${12} + ${13}) / $(getconf CLK_TCK)))
}

# fuzz TARGET: 255 makes xargs stop.
fuzz() {
  local target=$1 pid used merged inputs edges
  local work=work/$target corpus=corpus/$target log=work/$target.log
  mkdir -p "$work" "artifacts/$target"
  chrt -i 0 nice -n 19 "$FUZZ_BIN/$target" -max_len=8192 -print_final_stats=1 -timeout=600 \
    -artifact_prefix="artifacts/$target/" "$work" "$corpus" > "$log" 2>&1 &
  pid=$!
  while used=$(processor_seconds $pid) && [ "$used" -lt "$seconds" ]; do sleep 1; done
  kill -USR1 $pid 2> /dev/null # libFuzzer ends in good order
  if ! wait $pid; then
    tail -n 25 "$log"
    echo "$target: it crashed; the log is fuzz/$log" >&2
    return 255
  fi
  merged=$(mktemp -d)
  "$FUZZ_BIN/$target" -max_len=8192 -merge=1 "$merged" "$corpus" "$work" > "$log.merge" 2>&1 || { tail -n 5 "$log.merge"; return 255; }
  # What has a name of its own stays; of the others those that the merge kept.
  find "$corpus" -type f -regextype posix-egrep -regex '.*/[0-9a-f]{40}' -delete
  find "$merged" -type f -printf '%s %f\n' | sort -n | head -n "${KEEP:-60}" | while read -r _ name; do cp "$merged/$name" "$corpus/"; done
  rm -rf "$merged"
  # What a target says of its inputs is in the log too, and need not be text; each end of a run has its number.
  inputs=$(grep -a '^stat::number_of_executed_units:' "$log" | tail -n 1 | tr -dc '0-9')
  edges=$(grep -a -o 'cov: [0-9]*' "$log" | tail -n 1 | cut -d ' ' -f 2)
  echo "| $target | $(printf "%'d" "$inputs") | $edges | $seconds |"
}
export -f fuzz processor_seconds
printf '%s\n' "${targets[@]}" | xargs -P "${JOBS:-1}" -I '{}' bash -c 'fuzz {}'
