#!/usr/bin/env bash
# verify.sh KMSFS DIR [ROUNDS] [MIB]: how fast `kmsfs verify` reads a volume of MIB (1024) MiB in DIR, a directory on a disk, beside cat(1) of
# the same ciphertext, in turns and each with nothing in memory, as root: half of the volume is one file, half are files of 256 KiB. A
# table of medians of ROUNDS (5), without a freshness record and with one.
set -euo pipefail
if [ $# -lt 2 ]; then sed -n '2,4s/^# //p' "$0" >&2; exit 2; fi
kmsfs=$(realpath "$1")
rounds=${3:-5} mib=${4:-1024}
work=$(mktemp -d "$2/kmsfs-verify.XXXXXX")
export KMSFS_HOME=$work/kms
mounted=
end() { [ -z "$mounted" ] || "$kmsfs" umount "$work/mnt" > /dev/null 2>&1 || umount -l "$work/mnt"; rm -rf --one-file-system "$work"; }
trap end EXIT
mkdir "$work/mnt"
"$kmsfs" init --keyfile > /dev/null 2>&1
for kind in plain recorded; do
  options=()
  [ $kind = plain ] || options=(--freshness)
  "$kmsfs" init "${options[@]}" "$work/$kind" > /dev/null 2>&1
  "$kmsfs" mount --daemon "$work/$kind" "$work/mnt" > /dev/null 2>&1
  mounted=1
  head -c $((mib / 2))M /dev/urandom > "$work/mnt/large"
  for i in $(seq $((mib * 2))); do
    [ $((i % 500)) != 1 ] || mkdir "$work/mnt/d$((i / 500))"
    head -c 256K /dev/urandom > "$work/mnt/d$(((i - 1) / 500))/$i"
  done
  "$kmsfs" umount "$work/mnt" > /dev/null
  mounted=
done
declare -A times
timed() { # NAME COMMAND...
  local name=$1 start
  shift
  sync
  echo 3 > /proc/sys/vm/drop_caches
  start=$EPOCHREALTIME
  "$@" > /dev/null 2>&1
  times[$name]+=" $(((${EPOCHREALTIME/./} - ${start/./}) / 1000))"
}
for _ in $(seq "$rounds"); do
  for kind in plain recorded; do
    timed cat.$kind sh -c 'find "$1" -type f -print0 | sort -z | xargs -0 cat' sh "$work/$kind"
    timed verify.$kind "$kmsfs" verify "$work/$kind"
  done
done
printf '| | cat | verify | verify / cat |\n| --- | ---: | ---: | ---: |\n'
median() { tr ' ' '\n' <<< "${times[$1]# }" | sort -n | sed -n "$(((rounds + 1) / 2))p"; }
for kind in plain recorded; do
  cat=$(median cat.$kind) verify=$(median verify.$kind)
  name="$mib MiB"
  [ $kind = plain ] || name="$name, with a freshness record"
  awk -v n="$name" -v m="$mib" -v c="$cat" -v v="$verify" 'BEGIN { printf "| %s | %.0f MiB/s | %.0f MiB/s | %.2f |\n", n, m * 1000 / c, m * 1000 / v, c / v }'
done
