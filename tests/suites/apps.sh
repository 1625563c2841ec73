#!/bin/bash
# apps.sh FS: applications on the mount: SQLite (WAL, mmap, killed clients), git, cargo, rsync -aHAXS, tar, dbench,
# stress-ng (27 stressors, verified), PostgreSQL (initdb with checksums, pgbench, immediate stop and recovery).
# A case passes when its command succeeds AND its last line of output matches the pattern given for it.
# Environment: APPS="sqlite git ..." runs only these groups; DBENCH_SECONDS, PG_SECONDS, STRESS_SECONDS (defaults 3, 4, 2).
# Packages: sqlite3 git rsync acl attr dbench stress-ng postgresql procps
. "$(dirname "$0")/lib.sh"
APPS=${APPS:-sqlite git cargo rsync tar dbench stress-ng postgresql}
PG_SECONDS=${PG_SECONDS:-4}
suite_mount "$@"
PGDIR=
finish() {
  [ -z "$PGDIR" ] || su postgres -c "$PGDIR/pg_ctl -D $M/pg -m immediate stop" >/dev/null 2>&1
  suite_cleanup
}
trap finish EXIT

want() { case " $APPS " in *" $1 "*) return 0;; *) return 1;; esac; }
have() { # GROUP COMMAND: the group is wanted and its command is there; else it is recorded as skipped
  want "$1" || return 1
  command -v "$2" >/dev/null && return 0
  result "$1" skip "$2 is not installed"
  return 1
}
r() { # NAME PATTERN COMMAND
  local start out rc state=ok
  start=$(date +%s%N)
  out=$(cd / && timeout "${LIMIT:-150}" bash -o pipefail -c "$3" 2>"$LOG/$1.err")
  rc=$?
  out=$(printf '%s' "$out" | tail -n 1 | cut -c1-140)
  { [ $rc = 0 ] && [[ $out =~ $2 ]]; } || { state=fail; out="rc=$rc $out $(tail -n 1 "$LOG/$1.err" | cut -c1-200)"; }
  result "$1" $state "$out"
  printf '%s\t%s\t%s\t%d.%ds\t%s\n' "$FS" "$1" $state $((($(date +%s%N) - start) / 1000000000)) $((($(date +%s%N) - start) / 100000000 % 10)) "$out"
}

if have sqlite sqlite3; then
  r sqlite-wal '^ok$' "sqlite3 $M/a.db 'pragma journal_mode=wal; create table t(a,b); with recursive c(x) as (select 1 union all select x+1 from c limit 100000) insert into t select x,randomblob(100) from c; create index i on t(a); pragma wal_checkpoint(truncate); pragma integrity_check;'"
  r sqlite-delete-mmap '^ok$' "sqlite3 $M/b.db 'pragma mmap_size=268435456; pragma journal_mode=delete; create table t(a,b);' >/dev/null && for i in \$(seq 100); do echo \"insert into t values(\$i,randomblob(3000));\"; done | sqlite3 $M/b.db && sqlite3 $M/b.db 'pragma mmap_size=268435456; select count(*) from t; pragma integrity_check;'"
  # The writer is killed in the middle of its transactions five times.
  r sqlite-kill9 '^ok$' "set +o pipefail; for k in 1 2 3 4 5; do (yes 'insert into t values(1,randomblob(2000));' | sqlite3 $M/b.db) & p=\$!; sleep 0.7; kill -9 \$(pgrep -P \$p sqlite3) || exit 9; wait; done 2>/dev/null; sqlite3 $M/b.db 'pragma integrity_check'"
fi
if have git git; then
  G=$W/gitsrc
  [ -d "$G/.git" ] || { git init -q "$G" && cp -r "$REPO/." "$G/src" 2>/dev/null; rm -rf "$G/src/.git" "$G/src/target"
    mkdir -p "$G/doc"; find /usr/share/doc -type f 2>/dev/null | sort | head -n 1500 | xargs -r cp --parents -t "$G/doc"; (cd "$G" && git add -A && git -c user.name=a -c user.email=b@c commit -qm seed); }
  r git '^1$' "git clone -q --no-hardlinks $G $M/g && cd $M/g && git fsck --full && git gc -q --aggressive && git fsck && echo x > newf && git add newf && git status --porcelain | wc -l"
fi
if have cargo cargo; then
  r cargo 'Hello, world!' "cd $M && cargo new -q hello && cd hello && cargo build -q --offline && ./target/debug/hello && touch src/main.rs && cargo build -q --offline && ./target/debug/hello"
fi
# A tree with everything a copying program must carry over.
T=$W/tree
rm -rf "$T"; mkdir -p "$T/d"
(cd "$T" && echo x > a && ln a hl && ln -s a sl && mkfifo ff && truncate -s 50M sparse && echo end >> sparse && head -c 3000000 /dev/urandom > rnd &&
  setfattr -n user.k -v v a && setfacl -m u:nobody:r a && setfacl -d -m u:nobody:rwx d && touch -d '2001-02-03 04:05:06.123456789' a &&
  chown 12:34 rnd && chmod 4711 rnd && mknod nul c 1 3) || die "cannot make the test tree in $T (acl, attr installed? on a disk file system?)"
if have rsync rsync; then
  r rsync-aHAXS '^0$' "rsync -aHAXS --numeric-ids $T/ $M/rs/ && rsync -naHAXc -i --numeric-ids $T/ $M/rs/ | tee /dev/stderr | wc -l"
fi
if have tar tar; then
  # --diff says nothing where all is equal; the hole must still be one.
  r tar '^[0-9]+$' "tar --xattrs --acls -S -cf $W/t.tar -C $T . && mkdir -p $M/tx && tar --xattrs --acls -S --same-owner -xpf $W/t.tar -C $M/tx && tar --xattrs --acls -df $W/t.tar -C $M/tx && b=\$(stat -c %b $M/tx/sparse) && [ \$b -lt 4096 ] && [ \$(stat -c %s $M/tx/sparse) = 52428804 ] && echo \$b"
  rm -f "$W/t.tar"
fi
if have dbench dbench; then
  r dbench '^Throughput [1-9]' "cd $M && dbench -t ${DBENCH_SECONDS:-3} -c /usr/share/dbench/client.txt 4 | grep Throughput"
fi
if have stress-ng stress-ng; then
  r stress-ng '^27 verified$' "cd $M && stress-ng --temp-path $M --seed 7 --verify --timeout ${STRESS_SECONDS:-2} --metrics-brief --chdir 1 --chmod 1 --dentry 1 --dir 1 --fallocate 1 --fcntl 1 --filename 1 --flock 1 --fstat 1 --getdent 1 --hdd 1 --hdd-bytes 64M --iomix 1 --iomix-bytes 16M --link 1 --lockf 1 --mknod 1 --open 1 --readahead 1 --readahead-bytes 8M --rename 1 --seek 1 --symlink 1 --sync-file 1 --utime 1 --xattr 1 --copy-file 1 --mmap 1 --mmap-file --mmap-bytes 32M --chown 1 --sendfile 1 > $LOG/stress-ng.log 2>&1; rc=\$?; grep -iE 'fail:|error:|unsuccess|skip' $LOG/stress-ng.log >&2; n=\$(grep -cE 'metrc: .* [a-z-]+ +[0-9]+ +[0-9.]+ ' $LOG/stress-ng.log); [ \$n = 27 ] || grep 'metrc: ' $LOG/stress-ng.log | awk '{ printf \"%s %s, \", \$4, \$5 }' >&2; [ \$rc = 0 ] && echo \$n verified"
fi
if want postgresql; then
  PGDIR=$(find /usr/lib/postgresql -path '*/bin/initdb' 2>/dev/null | sort -V | tail -n 1)
  PGDIR=${PGDIR%/initdb}
  if [ -n "$PGDIR" ]; then
    mkdir -p "$M/pg"; chown postgres "$M/pg"; chmod 700 "$M/pg"
    SOCK=$W/pgsock; mkdir -p "$SOCK"; chown postgres "$SOCK"; PGLOG=$SOCK/server.log
    start="$PGDIR/pg_ctl -D $M/pg -o '-k $SOCK -p 5999 -c listen_addresses=' -l $PGLOG -w start >/dev/null"
    r pg-initdb '' "su postgres -c '$PGDIR/initdb -k -D $M/pg >/dev/null'"
    r pgbench '^tps = [1-9]' "su postgres -c \"$start && $PGDIR/pgbench -h $SOCK -p 5999 -i -s 2 postgres >/dev/null 2>&1 && $PGDIR/pgbench -h $SOCK -p 5999 -c 4 -T $PG_SECONDS postgres | grep tps | head -n 1\""
    r pg-crash-recover 't' "su postgres -c \"($PGDIR/pgbench -h $SOCK -p 5999 -c 4 -T 5 postgres >/dev/null 2>&1 &) ; sleep 2; $PGDIR/pg_ctl -D $M/pg -m immediate stop >/dev/null; $start && $PGDIR/psql -h $SOCK -p 5999 -Atc 'select (select sum(abalance) from pgbench_accounts)=(select sum(bbalance) from pgbench_branches)' postgres\" | grep '^t\$'"
    r pg-checksums 'Bad checksums: *0$' "su postgres -c \"$PGDIR/pg_ctl -D $M/pg -m fast stop >/dev/null; $PGDIR/pg_checksums -D $M/pg -c | grep -i bad\""
  else
    result postgresql skip "PostgreSQL is not installed"
  fi
fi
suite_finish
