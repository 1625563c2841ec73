#!/bin/bash
# model.sh FS: the random operations of the model test (tests/integration/model.rs) on a mount and on a plain directory
# beside it, which must agree in every answer. CASES=sequences (default 200, of up to 60 operations), new ones in every
# run; a sequence that fails is shrunk and kept in proptest-regressions/. Needs cargo.
. "$(dirname "$0")/lib.sh"
need cargo "https://rustup.rs"
CASES=${CASES:-200}
suite_mount "$@"
mkdir -p "$W/plain"
start=$SECONDS
if (cd "$REPO" && KMSFS_TEST_MOUNT=$M KMSFS_TEST_PLAIN=$W/plain PROPTEST_CASES=$CASES \
  cargo test --release --locked --test integration -- --exact model::a_mount_behaves_as_the_host > "$LOG/model.log" 2>&1) &&
  grep -q '^test result: ok. 1 passed' "$LOG/model.log" && ! grep -q '^left to' "$LOG/model.log"; then
  result "$CASES sequences" ok
else
  tail -n 60 "$LOG/model.log"
  result "$CASES sequences" fail "log: $LOG/model.log"
fi
printf '%s\t%s sequences\t%ss\n' "$FS" "$CASES" $((SECONDS - start))
suite_finish
