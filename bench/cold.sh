#!/usr/bin/env bash
# cold.sh ROUNDS KMSFS...: walks over a tree with nothing in memory, by each of these programs in turns, as root: find, ls -lR, md5sum of
# all files, git status. A line for each program and walk: milliseconds of the rounds, and their median. DIR (default /tmp, on a
# real disk) is where the volumes are made.
set -euo pipefail
if [ $# -lt 2 ] || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then sed -n '2,4s/^# //p' "$0" >&2; exit 2; fi
rounds=$1
shift
work=$(mktemp -d "${DIR:-/tmp}/kmsfs-cold.XXXXXX")
# A home of its own for each: an earlier program does not open that of a later one.
in_home() { export KMSFS_HOME=$work/kms-$1; }
mounted=
end() { [ -z "$mounted" ] || "$mounted" umount "$work/mnt" > /dev/null 2>&1 || umount -l "$work/mnt"; rm -rf --one-file-system "$work"; }
trap end EXIT
mkdir "$work/mnt"
up() { in_home "$2"; "$1" mount --daemon "$work/$2" "$work/mnt" > /dev/null 2>&1; mounted=$1; daemon=$(sed -n 's/^pid=//p' "$work/$2/.kmsfs/lock"); }
down() { "$mounted" umount "$work/mnt" > /dev/null; while [ -e "/proc/$daemon" ]; do sleep 0.01; done; mounted=; }

# 1,500 files in 100 directories, and their git repository, which has 256 more.
number=0
for program; do
  mkdir "$work/$number"
  in_home $number
  "$program" init --keyfile "$work/$number" > /dev/null 2>&1
  up "$program" $number
  python3 - "$work/mnt/tree" << 'PYTHON'
import os, random, sys
source = random.Random(7)
for i in range(100):
    directory = f"{sys.argv[1]}/d{i // 10}/e{i % 10}"
    os.makedirs(directory)
    for k in range(15):
        with open(f"{directory}/file{k}.c", "wb") as file:
            file.write(source.randbytes(int(min(200_000, source.lognormvariate(8.3, 1.3)))))
PYTHON
  (cd "$work/mnt/tree" && git init -q && git add -A && git -c user.name=b -c user.email=b@b commit -qm x) 2> /dev/null
  down
  number=$((number + 1))
done

declare -A times
walk() {
  case $1 in
    find) find tree -size +100k ;;
    ls) ls -lR tree ;;
    md5sum) find tree -name .git -prune -o -type f -print0 | xargs -0 -n 200 md5sum ;;
    status) git -C tree status --porcelain ;;
  esac
}
for ((round = 0; round < rounds; round++)); do
  for what in find ls md5sum status; do
    number=0
    for program; do
      sync
      echo 3 > /proc/sys/vm/drop_caches
      up "$program" $number
      cd "$work/mnt"
      start=$EPOCHREALTIME
      walk $what > /dev/null
      stop=$EPOCHREALTIME
      cd "$work"
      times[$number.$what]+=" $(((${stop/./} - ${start/./}) / 1000))"
      down
      number=$((number + 1))
    done
  done
done
for what in find ls md5sum status; do
  number=0
  for program; do
    median=$(tr ' ' '\n' <<< "${times[$number.$what]# }" | sort -n | sed -n "$(((rounds + 1) / 2))p")
    printf '%-8s %-30s median %5d ms:%s\n' "$what" "$program" "$median" "${times[$number.$what]}"
    number=$((number + 1))
  done
done
