#!/usr/bin/env bash
# Brings the pinned llama.cpp here, lays our patch and files over it and builds it.
#
#   supply.sh fetch         download the source package, check its hash, unpack it to src/
#   supply.sh patch         apply patches/ to the source; nothing happens when they are applied already
#   supply.sh patch-check   prove that the patches apply to the pristine source, and that a second apply changes nothing
#   supply.sh build         build the static libraries into build/ (does the two steps above first)
#   supply.sh tests         build llama.cpp's own tests on the patched library into build-tests/
#
# Environment: LLAMA_CPP_DIR  a checkout of one's own instead of the package (it is patched in place)
#              GGML_NATIVE    ON (default) or OFF: code for this CPU only, or for any of its architecture
#              JOBS           parallel compilers, default: all cores
#              LLAMA_CMAKE    further cmake arguments
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lock.env
source "$here/lock.env"

src=${LLAMA_CPP_DIR:-$here/src}
build=$here/build
jobs=${JOBS:-$(nproc)}

say() { printf 'llama.cpp: %s\n' "$*" >&2; }
die() {
	say "$*"
	exit 1
}

# unpack DIR: the pristine source of the locked package, from the download cache or the package index
unpack() {
	local archive=$here/download/${LLAMA_PACKAGE//-/_}-$LLAMA_VERSION.tar.gz
	if ! sha256sum --status -c - 2>/dev/null <<<"$LLAMA_SHA256  $archive"; then
		say "fetching $LLAMA_PACKAGE $LLAMA_VERSION (about 75 MB)"
		mkdir -p "$here/download"
		local log=$here/download/pip.log
		# the hash is checked by pip before it looks into the archive, and again below
		printf '%s==%s --hash=sha256:%s\n' "$LLAMA_PACKAGE" "$LLAMA_VERSION" "$LLAMA_SHA256" >"$here/download/lock.txt"
		python3 -m pip download --no-deps --no-binary "$LLAMA_PACKAGE" --require-hashes -r "$here/download/lock.txt" \
			-d "$here/download" >"$log" 2>&1 || {
			tail -n 20 "$log" >&2
			die "pip could not download $LLAMA_PACKAGE $LLAMA_VERSION; the whole log is $log"
		}
		sha256sum --status -c - <<<"$LLAMA_SHA256  $archive" || die "wrong sha256 of $archive, expected $LLAMA_SHA256"
	fi
	local tmp=$1.tmp
	rm -rf "$tmp" "$1"
	mkdir -p "$tmp"
	tar -xzf "$archive" -C "$tmp" --strip-components=3 "${LLAMA_PACKAGE//-/_}-$LLAMA_VERSION/vendor/llama.cpp"
	# leftovers of the packager's submodule: they would point git at a repository that is not there
	rm -f "$tmp/.git"
	mv "$tmp" "$1"
}

fetch() {
	if [[ -n ${LLAMA_CPP_DIR:-} ]]; then
		[[ -f $src/include/llama.h ]] || die "LLAMA_CPP_DIR=$src is not a llama.cpp checkout (no include/llama.h)"
		return
	fi
	if [[ $(cat "$src/.locked" 2>/dev/null) != "$LLAMA_SHA256" ]]; then
		unpack "$src"
		printf '%s\n' "$LLAMA_SHA256" >"$src/.locked"
	fi
}

# apply DIR: a patch that reverses cleanly is there already; one that neither reverses nor applies is an error
apply() {
	local p
	for p in "$here"/patches/*.patch; do
		if patch -d "$1" -p1 -R -f -s --dry-run <"$p" >/dev/null 2>&1; then
			continue
		fi
		patch -d "$1" -p1 -f -s --dry-run <"$p" >/dev/null ||
			die "$(basename "$p") does not apply to $1: the source is not llama.cpp $LLAMA_COMMIT"
		patch -d "$1" -p1 -f -s --no-backup-if-mismatch <"$p"
		say "applied $(basename "$p")"
	done
}

changed_lines() { cat "$here"/patches/*.patch | grep -c '^[-+][^-+]' || true; }

patch_check() {
	local dir=$here/check
	unpack "$dir"
	trap 'rm -rf "$here/check"' EXIT
	apply "$dir"
	local once twice
	once=$(cd "$dir" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum)
	apply "$dir"
	twice=$(cd "$dir" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum)
	[[ $once == "$twice" ]] || die "applying the patches twice changed the source"
	local n
	n=$(changed_lines)
	((n < 60)) || die "the patches change $n upstream lines, allowed are fewer than 60"
	say "patches apply to $LLAMA_PACKAGE $LLAMA_VERSION, twice is once, $n upstream lines changed"
}

# configure DIR ARGS...: cmake once per set of arguments
configure() {
	local dir=$1
	shift
	local args=(-S "$src" -B "$dir" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF
		-DLLAMA_FED_DIR="$here/fed" -DGGML_NATIVE="${GGML_NATIVE:-ON}" -DGGML_OPENMP=OFF
		-DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_COMMON=ON -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
		-DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF "$@")
	if command -v ninja >/dev/null; then
		args+=(-G Ninja)
	fi
	if command -v ccache >/dev/null; then
		args+=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
	fi
	# shellcheck disable=SC2086 # LLAMA_CMAKE is a list
	args+=(${LLAMA_CMAKE:-})
	if [[ -f $dir/CMakeCache.txt && $(cat "$dir/.configured" 2>/dev/null) == "${args[*]}" ]]; then
		return
	fi
	rm -rf "$dir"
	mkdir -p "$dir"
	cmake "${args[@]}" >"$dir/configure.log" 2>&1 || {
		tail -n 30 "$dir/configure.log" >&2
		die "cmake failed; the whole log is $dir/configure.log"
	}
	printf '%s' "${args[*]}" >"$dir/.configured"
}

# merge: one archive with every object that the Go binding links
merge() {
	local out=$build/libfedllama.a libs lib
	libs=$(find "$build" -name '*.a' ! -name libfedllama.a | sort)
	if [[ -f $out && -z $(find "$build" -name '*.a' -newer "$out" ! -name libfedllama.a) ]]; then
		return
	fi
	{
		echo "create $out.tmp"
		for lib in $libs; do echo "addlib $lib"; done
		echo save
		echo end
	} | ar -M
	mv "$out.tmp" "$out"
}

build() {
	fetch
	apply "$src"
	configure "$build" -DLLAMA_BUILD_TESTS=OFF
	say "building with $jobs jobs (a few minutes the first time)"
	cmake --build "$build" -j "$jobs" --target llama llama-common
	merge
}

tests() {
	fetch
	apply "$src"
	configure "$here/build-tests" -DLLAMA_BUILD_TESTS=ON
	say "building llama.cpp's own tests with $jobs jobs"
	cmake --build "$here/build-tests" -j "$jobs" --target "$@"
}

case ${1:-} in
fetch) fetch ;;
patch) fetch && apply "$src" ;;
patch-check) patch_check ;;
build) build ;;
tests)
	shift
	tests "$@"
	;;
*)
	sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
	exit 2
	;;
esac
