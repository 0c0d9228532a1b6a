#!/usr/bin/env bash
# Runs tests/test-leaks.cpp under LeakSanitizer: what llama-fed.h allocates is freed, also where it fails. A second run
# plants a leak, which has to be found, so that silence means something.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=planted.sh
source "$here/planted.sh"

"$here/supply.sh" leaks
# large allocations fail as they do where memory is short
export LSAN_OPTIONS=exitcode=23:max_allocation_size_mb=200:allocator_may_return_null=1
"$here/build/bin/test-leaks"
must_find 'a leak' 'leak of 4321 byte' "$here/build/bin/test-leaks" plant
echo 'test-leaks: nothing leaks, and the planted leak was found'
