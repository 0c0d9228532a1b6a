#!/usr/bin/env bash
# Runs those of llama.cpp's own tests that the patch could break, on the patched library: model architectures, KV
# cache, state, batches, RoPE and row quantisation. Nothing is downloaded.
#
#   test-upstream.sh MODEL.gguf      the model for the tests that need a trained one
set -euo pipefail

(($# == 1)) || {
	sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
	exit 2
}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
model=$(realpath "$1")
bin=$here/build-tests/bin
work=$here/build-tests/logs

"$here/supply.sh" tests test-llama-archs test-save-load-state test-recurrent-state-rollback \
	test-state-restore-fragmented test-thread-safety test-batch-alloc test-rope test-quantize-fns

rm -rf "$work"
mkdir -p "$work/models"
cd "$work"
# the tests take their arguments as llama.cpp's programs do and could ask a hub
export LLAMA_OFFLINE=1
# more threads than cores that wait for each other take minutes instead of seconds
OMP_THREAD_LIMIT=$(nproc)
export OMP_THREAD_LIMIT OMP_WAIT_POLICY=passive

failed=0
run() {
	local name=$1 start=$SECONDS verdict=ok
	shift
	if ! "$@" </dev/null >"$name.log" 2>&1; then
		verdict=FAILED
		failed=$((failed + 1))
	fi
	# some tests count for themselves
	printf '%-26s %-6s %4d s  %s\n' "$name" "$verdict" $((SECONDS - start)) \
		"$(sed -n 's/^.*[Ss]ummary: //p' "$name.log" | tail -n 1)"
	if [[ $verdict == FAILED ]]; then
		printf '%s, its end:\n' "$work/$name.log"
		tail -n 15 "$name.log"
	fi
}

# random weights, every architecture: the library's backends agree; the second run writes the models for the next two
run llama-archs "$bin/test-llama-archs" -s 1234
run llama-archs-models "$bin/test-llama-archs" -s 1234 -o models/
run save-load-state "$bin/test-save-load-state" --models models/
run recurrent-state-rollback "$bin/test-recurrent-state-rollback" --models models/
run save-load-state-trained "$bin/test-save-load-state" -m "$model"
run state-restore-fragmented "$bin/test-state-restore-fragmented" -m "$model"
run thread-safety "$bin/test-thread-safety" -m "$model" -p 'The meaning of life is' -n 32 -c 256 -ub 32 -np 4 \
	-t 2
run batch-alloc "$bin/test-batch-alloc"
run rope "$bin/test-rope"
run quantize-fns "$bin/test-quantize-fns"
rm -rf models

if ((failed > 0)); then
	printf '%d of llama.cpp'"'"'s tests failed; logs are in %s\n' "$failed" "$work"
	exit 1
fi
printf "llama.cpp's tests pass on the patched library\n"
