#!/usr/bin/env bash
# Runs tests/test-calls.cpp, random calls of llama-fed.h, and the oracle of some architectures on a library with
# AddressSanitizer (which looks for leaks, too) and UndefinedBehaviorSanitizer. Mistakes that are planted have to be found,
# so that silence means something.
#
#   test-asan.sh [CALLS [SEED]]    10000 calls from seed 1
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=planted.sh
source "$here/planted.sh"
calls=${1:-10000}
seed=${2:-1}

"$here/supply.sh" asan
bin=$here/build-asan/bin
# large allocations fail as they do where memory is short
export ASAN_OPTIONS=exitcode=23:detect_leaks=1:max_allocation_size_mb=200:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1:exitcode=23

must_find 'a byte written beyond a buffer' 'WRITE of size.*llama_fed_rows_get.* 0 bytes (to the right of|after) ' "$bin/test-calls" -p write
must_find 'a byte read beyond a buffer' 'READ of size.*llama_fed_rows_set.* 0 bytes (to the right of|after) ' "$bin/test-calls" -p read
must_find 'a context used after it was freed' 'heap-use-after-free.*llama_fed_set_next_pos' "$bin/test-calls" -p free
must_find 'a signed overflow' 'runtime error: signed integer overflow' "$bin/test-calls" -p overflow

"$bin/test-calls" -n "$calls" -s "$seed"
"$bin/test-archs" -a '^(llama|qwen2|gemma3|phi2|starcoder)$' | sed 's/^/oracle: /'
awk -v n="$calls" -v seed="$seed" 'BEGIN {
	printf "test-asan: N %d, seed %d, 0 reports, upper bound %.2g; 4 of 4 planted mistakes found\n", n, seed, 3 / n
}'
