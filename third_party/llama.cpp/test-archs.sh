#!/usr/bin/env bash
# Holds the arithmetic of rows to ggml's (tests/test-codec.cpp) and every architecture of llama.cpp to the oracle
# (tests/test-archs.cpp), once more with caches in memory that the processor cannot reach, as a GPU's (tests/far-device.h),
# prints the matrix, and compares it with the one in docs/models.md.
#
#   test-archs.sh             fail when an architecture fails or the document says something else
#   test-archs.sh -rewrite    write the matrix into the document
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
doc=$here/../../docs/models.md
begin='<!-- make test-archs: begin -->'
end='<!-- make test-archs: end -->'

case ${1:-} in
'' | -rewrite) ;;
*)
	sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
	exit 2
	;;
esac

"$here/supply.sh" test-archs
"$here/build/bin/test-codec"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$here/build/bin/test-archs" -o "$work/matrix"
# all layers and caches on a device: the verdicts are the same
"$here/build/bin/test-archs" -d -o "$work/device" >"$work/log" 2>&1 || {
	cat "$work/log" >&2
	exit 1
}
diff -u --label 'in memory' "$work/matrix" --label 'on a device' "$work/device"
printf 'the same with all layers and caches on a device whose memory is not the program'"'"'s: %s variants\n' "$(wc -l <"$work/log")"
"$here/build/bin/test-calls" -d -n 2000

# the document with the matrix between its two marks
awk -v begin="$begin" -v end="$end" -v matrix="$work/matrix" '
	$0 == end { skip = 0; ends++ }
	!skip
	$0 == begin { skip = 1; begins++; while ((getline line < matrix) > 0) print line }
	END { exit !(begins == 1 && ends == 1) }
' "$doc" >"$work/doc" || {
	echo "docs/models.md lacks the marks $begin and $end: put them where the matrix belongs" >&2
	exit 1
}
if [[ ${1:-} == -rewrite ]]; then
	cat "$work/doc" >"$doc"
elif [[ -n ${LLAMA_CPP_DIR:-} ]]; then
	echo 'docs/models.md is not compared: it is about the pinned llama.cpp'
elif ! diff -u --label docs/models.md --label 'this run' "$doc" "$work/doc"; then
	echo 'docs/models.md has another matrix: third_party/llama.cpp/test-archs.sh -rewrite writes this one' >&2
	exit 1
fi
