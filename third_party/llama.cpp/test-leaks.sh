#!/usr/bin/env bash
# Runs tests/test-leaks.cpp under LeakSanitizer: what llama-fed.h allocates is freed, also where it fails. A second run
# plants a leak, which has to be found, so that silence means something.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

"$here/supply.sh" leaks
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# large allocations fail as they do where memory is short
export LSAN_OPTIONS=exitcode=23:max_allocation_size_mb=200:allocator_may_return_null=1
"$here/build/bin/test-leaks"
status=0
"$here/build/bin/test-leaks" plant >"$log" 2>&1 || status=$?
if ((status != 23)) || ! grep -q 'leak of 4321 byte' "$log"; then
	cat "$log"
	echo "test-leaks: the planted leak was not found (exit status $status): LeakSanitizer does not work here" >&2
	exit 1
fi
echo 'test-leaks: nothing leaks, and the planted leak was found'
