#!/usr/bin/env bash
# Makes src/, the module that go.mod's replace points to: the pinned go-llama.cpp with overlay/ laid over it.
#
#   supply.sh fetch   copy the module, check its sum, lay the overlay: enough for CGO_ENABLED=0
#   supply.sh build   the same, and link it with what ../llama.cpp/supply.sh build has made
#   supply.sh headers the same without a library: for those who name one to the linker themselves (CGO_LDFLAGS=-L…)
#
# A second run changes no file, and Go rebuilds nothing.
#
# Environment: LLAMA_CPP_DIR  a llama.cpp checkout of one's own, as for ../llama.cpp/supply.sh
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lock.env
source "$here/lock.env"

src=$here/src
archive=$here/../llama.cpp/build/libfedllama.a
tmp=
trap 'rm -rf "$tmp"' EXIT

say() { printf 'go-llama.cpp: %s\n' "$*" >&2; }
die() {
	say "$*"
	exit 1
}

# put FILE TARGET: a copy, written only where it differs: Go rebuilds what has changed
put() {
	cmp -s "$1" "$2" || cp "$1" "$2"
}

overlay_files() { (cd "$here/overlay" && find . -type f | LC_ALL=C sort); }

# the module and the names of what lies over it: when a name goes, its copy must not stay
stamp() { printf '%s %s %s\n' "$GO_LLAMA_MODULE@$GO_LLAMA_VERSION" "$GO_LLAMA_SUM" "$(overlay_files | tr '\n' ' ')"; }

# copy_module: a pristine, writable src/ from the module cache
copy_module() {
	[[ -f $src/.locked && $(cat "$src/.locked") == "$(stamp)" ]] && return
	local json dir sum
	# away from our go.mod, whose replace would answer instead
	tmp=$(mktemp -d)
	json=$(cd "$tmp" && GOWORK=off GOFLAGS='' go mod download -json "$GO_LLAMA_MODULE@$GO_LLAMA_VERSION") ||
		die "go could not download $GO_LLAMA_MODULE $GO_LLAMA_VERSION: $json"
	sum=$(sed -n 's/^\t"Sum": "\(.*\)",\{0,1\}$/\1/p' <<<"$json")
	dir=$(sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p' <<<"$json")
	[[ $sum == "$GO_LLAMA_SUM" ]] || die "wrong sum of $GO_LLAMA_MODULE $GO_LLAMA_VERSION: $sum, expected $GO_LLAMA_SUM"
	rm -rf "$src" "$src.tmp"
	cp -R "$dir" "$src.tmp"
	chmod -R u+w "$src.tmp"
	stamp >"$src.tmp/.locked"
	mv "$src.tmp" "$src"
	say "copied $GO_LLAMA_MODULE $GO_LLAMA_VERSION"
}

lay_over() {
	local file
	while read -r file; do
		mkdir -p "$(dirname "$src/$file")"
		put "$here/overlay/$file" "$src/$file"
	done < <(overlay_files)
}

# link_headers: src/llama.cpp, where llama.go's flags look for it
link_headers() {
	local target=../../llama.cpp/src
	if [[ -n ${LLAMA_CPP_DIR:-} ]]; then
		target=$(cd "$LLAMA_CPP_DIR" && pwd)
	fi
	[[ $(readlink "$src/llama.cpp" || true) == "$target" ]] || ln -sfn "$target" "$src/llama.cpp"
	[[ -f $src/llama.cpp/include/llama.h ]] || die "no llama.h under $target: run third_party/llama.cpp/supply.sh first"
}

# link_llama: src/libbinding.a, where llama.go's flags look for it
link_llama() {
	[[ -f $archive ]] || die "no libfedllama.a: run third_party/llama.cpp/supply.sh build first"
	[[ $src/libbinding.a -ef $archive ]] || cmp -s "$archive" "$src/libbinding.a" ||
		ln -f "$archive" "$src/libbinding.a" 2>/dev/null || cp "$archive" "$src/libbinding.a"
}

# Go does not see what lies behind -l and -I. A constant that binding.cpp compiles in changes with it, so that Go
# compiles and links again.
note_inputs() {
	local hash note
	hash=$(cd "$src" && sha256sum libbinding.a llama.cpp/{include,ggml/include,common}/*.h | sha256sum)
	note="#define BINDING_INPUTS \"${hash%% *}\""
	[[ $(cat "$src/binding_inputs.h" 2>/dev/null) == "$note" ]] || printf '%s\n' "$note" >"$src/binding_inputs.h"
}

fetch() {
	copy_module
	lay_over
}

case ${1:-} in
fetch) fetch ;;
headers)
	fetch
	link_headers
	# Go compiles with it; what is linked is not looked at
	[[ -f $src/binding_inputs.h ]] || printf '#define BINDING_INPUTS "none"\n' >"$src/binding_inputs.h"
	;;
build)
	fetch
	link_headers
	link_llama
	note_inputs
	;;
*)
	sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
	exit 2
	;;
esac
