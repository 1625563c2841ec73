#!/bin/bash
# probe.sh FS: 102 feature rows (fsprobe.py), compared with expected/probe-FS.tsv.
. "$(dirname "$0")/lib.sh"
need python3 "apt-get install python3"
need setfacl "apt-get install acl"
need setcap "apt-get install libcap2-bin"
suite_mount "$@"
timeout 500 python3 "$HERE/fsprobe.py" "$M" > "$LOG/probe.tsv" 2>&1
rc=$?
awk -F '\t' 'NF >= 2 && !/^#/ { print $1 "\t" ($2 ~ /^ok/ ? "ok" : $2 ~ /^n\/a/ ? "skip" : "fail") "\t" $2 }' "$LOG/probe.tsv" > "$RESULTS"
[ $rc = 0 ] || result "run to the end" fail "exit status $rc, see $LOG/probe.tsv"
suite_finish
