#!/bin/bash
# fsx.sh FS: seven fsx profiles. N=operations (default 20000), SEEDS="1 2". One line a run.
. "$(dirname "$0")/lib.sh"
need fsx "cargo install --locked fsx, or run scripts/test.sh"
N=${N:-20000}
SEEDS=${SEEDS:-1 2}
suite_mount "$@"
C=$W/profiles
mkdir -p "$C"
base='close_open=1\ninvalidate=1\nread=10\nwrite=10\nmapread=10\nmapwrite=10\ntruncate=2\nfsync=1\nfdatasync=1\nposix_fadvise=1\nsendfile=2\n'
profile() { printf '%b' "$2" > "$C/$1.toml"; }
profile base    "flen=1048576\n[weights]\n$base"
profile falloc  "flen=1048576\n[weights]\n${base}posix_fallocate=2\n"
profile punch   "flen=1048576\n[weights]\n${base}punch_hole=3\n"
profile cfr     "flen=1048576\n[weights]\n${base}copy_file_range=5\n"
profile all     "flen=1048576\n[weights]\n${base}posix_fallocate=2\npunch_hole=3\ncopy_file_range=5\n"
profile aligned "flen=1048576\n[opsize]\nmax=65536\nmin=1\nalign=4096\n[weights]\nclose_open=1\nread=10\nwrite=10\nmapread=0\nmapwrite=0\ntruncate=2\nfsync=1\n"
profile small   "flen=65536\nnomsyncafterwrite=true\n[opsize]\nmax=5000\nmin=0\nalign=1\n[weights]\n$base"
for c in ${PROFILES:-base small aligned falloc punch cfr all}; do
  for s in $SEEDS; do
    start=$SECONDS
    timeout "${LIMIT:-600}" fsx -f "$C/$c.toml" -N "$N" -S "$s" -P "$LOG" "$M/fsx.$c.$s" > "$LOG/$c-$s.log" 2>&1
    rc=$?
    if [ $rc = 0 ]; then
      state=ok; detail=
    else
      state=fail; detail="rc=$rc $(tail -n1 "$LOG/$c-$s.log" | cut -c1-150) (log: $LOG/$c-$s.log)"
    fi
    result "$c seed $s" $state "$detail"
    printf '%s\t%s\tseed %s\t%s ops\t%ss\t%s %s\n' "$FS" "$c" "$s" "$N" $((SECONDS - start)) "$state" "$detail"
    rm -f "$M/fsx.$c.$s"
  done
done
suite_finish
