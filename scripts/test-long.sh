#!/usr/bin/env bash
# The long forms of all tests (hours); see test.sh.
exec "$(dirname "${BASH_SOURCE[0]}")/test.sh" --long "$@"
