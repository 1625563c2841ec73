#!/bin/bash
# many.sh FS: a directory with COUNT=100000 files (many.py): made, listed exactly, looked up, listed again after a new mount, removed.
. "$(dirname "$0")/lib.sh"
need python3 "apt-get install python3"
COUNT=${COUNT:-100000}
suite_mount "$@"
many() { # TEXT MODE
  local out rc
  out=$(timeout "${LIMIT:-150}" python3 "$HERE/many.py" "$2" "$M/many" "$COUNT" 2>&1)
  rc=$?
  out=$(tail -n 1 <<< "$out")
  if [ $rc = 0 ]; then result "$1" ok "$out"; else result "$1" fail "exit status $rc: $out"; fi
  printf '%s\t%s\t%s\n' "$FS" "$1" "$out"
}
many "$COUNT files are made" make
many "listed exactly, looked up and read" check
if "$DRV" "$FS" umount "$M" && ALLOW_OTHER=1 DEVSUID=1 "$DRV" "$FS" mount "$B" "$M"; then result "a new mount" ok; else result "a new mount" fail; fi
many "the same after a new mount" check
many "renamed and removed" remove
if [ -z "$(ls -A "$M" | grep -vx lost+found)" ]; then result "nothing is left" ok; else result "nothing is left" fail "$(ls -A "$M")"; fi
suite_finish
