#!/usr/bin/env bash
# Brings the pinned llama.cpp here, lays our patch and files over it and builds it.
#
#   supply.sh fetch         download the source package, check its hash, unpack it to src/
#   supply.sh patch         apply patches/ to the source; nothing happens when they are applied already
#   supply.sh patch-check   prove that the patches apply to the pristine source, and that a second apply changes nothing
#   supply.sh build         build the static libraries into build/ (does fetch and patch first)
#   supply.sh shared        build shared libraries, and with them a CPU backend for every generation of processors, from
#                           which the running program takes the best, into build-shared/
#   supply.sh test-archs    build our tests (all of llama.cpp's architectures, the arithmetic of rows, calls) as well, to
#                           build/bin/
#   supply.sh codec         build the second of these tests only, and of llama.cpp what that needs
#   supply.sh leaks         build what LeakSanitizer watches as well, to build/bin/
#   supply.sh asan          build the library, but for the graphs of architectures and libcommon, and tests with
#                           AddressSanitizer and UndefinedBehaviorSanitizer, to build-asan/bin/
#   supply.sh bench         build llama-bench as well, on the same library, to build/bin/
#   supply.sh rpc           build llama-bench and the server for llama.cpp's own way of using several devices, to
#                           build-rpc/bin/
#   supply.sh tests NAME…   build some of llama.cpp's own tests on the patched source, to build-tests/bin/
#
# Environment: LLAMA_CPP_DIR  a checkout of one's own instead of the package (it is patched in place)
#              GGML_NATIVE    ON (default) or OFF: code for this CPU only, or for any of its architecture
#              JOBS           parallel compilers, default: all cores
#              LLAMA_CMAKE    further cmake arguments
#              LLAMA_TARGET   build and shared: for another machine, a GNU triplet such as aarch64-linux-gnu whose compilers
#                             are here. The folder then is build-TRIPLET, or build-shared-TRIPLET
#              LLAMA_MARCH    build: the target's instructions, as in armv8.2-a+dotprod. The folder ends in them
#
# In every folder but build/, libbinding.a is what the linker has to find first (-L) instead of go-llama.cpp's.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lock.env
source "$here/lock.env"

say() { printf 'llama.cpp: %s\n' "$*" >&2; }
die() {
	say "$*"
	exit 1
}

src=$here/src
if [[ -n ${LLAMA_CPP_DIR:-} ]]; then
	[[ -f $LLAMA_CPP_DIR/include/llama.h ]] ||
		die "LLAMA_CPP_DIR=$LLAMA_CPP_DIR is not a llama.cpp checkout (no include/llama.h)"
	src=$(cd "$LLAMA_CPP_DIR" && pwd)
fi
target=${LLAMA_TARGET:-}
build=$here/build${target:+-$target}${LLAMA_MARCH:+-$LLAMA_MARCH}
shared=$here/build-shared${target:+-$target}
jobs=${JOBS:-$(nproc)}

# unpack DIR FILE...: the named files of the pristine source, all of them without a name
unpack() {
	local dir=$1 files=("${@:2}")
	local archive=$here/download/${LLAMA_PACKAGE//-/_}-$LLAMA_VERSION.tar.gz
	local root=${LLAMA_PACKAGE//-/_}-$LLAMA_VERSION/vendor/llama.cpp
	"$here/../fetch-package.sh" sdist "$LLAMA_PACKAGE" "$LLAMA_VERSION" "$LLAMA_SHA256" "$archive" \
		"$here/backend.txt"
	rm -rf "$dir.tmp" "$dir"
	mkdir -p "$dir.tmp"
	if ((${#files[@]} == 0)); then
		files=("")
	fi
	tar -xzf "$archive" -C "$dir.tmp" --strip-components=3 "${files[@]/#/$root/}"
	# leftover of the packager's submodule: it would point git at a repository that is not there
	rm -f "$dir.tmp/.git"
	mv "$dir.tmp" "$dir"
}

fetch() {
	if [[ -n ${LLAMA_CPP_DIR:-} ]]; then
		return
	fi
	# a changed patch starts from the pristine source again; tar restores its dates, so only patched files recompile
	local want
	want="$LLAMA_SHA256 $(cat "$here"/patches/*.patch | sha256sum | cut -d ' ' -f 1)"
	if [[ $(cat "$src/.locked" 2>/dev/null) != "$want" ]]; then
		unpack "$src"
		printf '%s\n' "$want" >"$src/.locked"
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

# files and lines of upstream that the patches change; every added or removed line counts
changed_files() { sed -n 's|^--- a/||p' "$here"/patches/*.patch | sort -u; }
changed_lines() { cat "$here"/patches/*.patch | grep '^[-+]' | grep -c -v -e '^--- a/' -e '^+++ b/'; }

digest() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum); }

patch_check() {
	local dir=$here/check files
	mapfile -t files < <(changed_files)
	trap 'rm -rf "$here/check"' EXIT
	unpack "$dir" "${files[@]}"
	apply "$dir"
	local once twice
	once=$(digest "$dir")
	apply "$dir"
	twice=$(digest "$dir")
	[[ $once == "$twice" ]] || die "applying the patches twice changed the source"
	local n
	n=$(changed_lines)
	((n < 60)) || die "the patches change $n upstream lines, allowed are fewer than 60"
	say "patches apply to $LLAMA_PACKAGE $LLAMA_VERSION, twice is once; $n lines in ${#files[@]} upstream files changed"
}

# configure DIR ARG...: cmake once per set of arguments. New ones keep the objects: ninja knows which ones they change.
configure() {
	local dir=$1
	shift
	local args=(-S "$src" -B "$dir" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF
		-DLLAMA_FED_DIR="$here/fed" -DGGML_NATIVE="${GGML_NATIVE:-ON}" -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_COMMON=ON
		-DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF "$@")
	if [[ -z ${LLAMA_CPP_DIR:-} ]]; then
		args+=(-DLLAMA_BUILD_COMMIT="$LLAMA_COMMIT" -DLLAMA_BUILD_NUMBER=0)
		# or llama.cpp's scripts would take the commit of the repository around it for their own
		export GIT_CEILING_DIRECTORIES=$here
	fi
	if command -v ninja >/dev/null; then
		args+=(-G Ninja)
	fi
	if command -v ccache >/dev/null; then
		args+=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
		# relative paths, so that the two builds and two clones share what was compiled
		export CCACHE_BASEDIR=${here%/*/*}
	fi
	if [[ -n $target ]]; then
		command -v "$target-g++" >/dev/null || die "no compiler for $target: install g++-$target"
		args+=(-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR="${target%%-*}" -DGGML_NATIVE=OFF
			-DCMAKE_C_COMPILER="$target-gcc" -DCMAKE_CXX_COMPILER="$target-g++" -DCMAKE_FIND_ROOT_PATH="/usr/$target"
			-DCMAKE_FIND_ROOT_PATH_MODE_PROGRAM=NEVER)
	fi
	# shellcheck disable=SC2206 # LLAMA_CMAKE is a list
	args+=(${LLAMA_CMAKE:-})
	if [[ -f $dir/CMakeCache.txt && $(cat "$dir/.configured" 2>/dev/null) == "${args[*]}" ]]; then
		return
	fi
	# archives of another source must not survive: merge takes all that it finds
	if [[ $(cat "$dir/.source" 2>/dev/null) != "$src $LLAMA_SHA256" ]]; then
		rm -rf "$dir"
	fi
	mkdir -p "$dir"
	rm -rf "$dir/CMakeCache.txt" "$dir/CMakeFiles" "$dir/.configured"
	cmake "${args[@]}" >"$dir/configure.log" 2>&1 || {
		tail -n 30 "$dir/configure.log" >&2
		die "cmake failed; the whole log is $dir/configure.log"
	}
	printf '%s' "$src $LLAMA_SHA256" >"$dir/.source"
	printf '%s' "${args[*]}" >"$dir/.configured"
}

# compile DIR TARGET...: silent when there is nothing to do
compile() {
	local dir=$1
	shift
	if [[ -f $dir/build.ninja ]] && ninja -C "$dir" -n "$@" | grep -q 'no work to do'; then
		return
	fi
	say "compiling $* with $jobs jobs (the library takes minutes the first time)"
	# upstream's warnings are thousands of lines: the log keeps them, the terminal gets ninja's progress
	if ! cmake --build "$dir" -j "$jobs" --target "$@" 2>&1 | tee "$dir/build.log" |
		{ grep --line-buffered -E '^\[ *[0-9]+[/%]' || true; }; then
		grep -E -A 3 'error:|FAILED:' "$dir/build.log" | head -n 60 >&2
		die "compiling failed; the whole log is $dir/build.log"
	fi
}

# merge: one archive with every object that the Go binding links
merge() (
	cd "$build"
	out=libfedllama.a
	if [[ -f $out && -z $(find . -name '*.a' -newer $out ! -name $out) ]]; then
		return
	fi
	{
		echo "create $out.tmp"
		find . -name '*.a' ! -name $out | sort | sed 's/^/addlib /'
		echo save
		echo end
	} | "${target:+$target-}ar" -M
	mv $out.tmp $out
)

configure_build() {
	fetch
	apply "$src"
	local march=()
	if [[ -n ${LLAMA_MARCH:-} ]]; then
		march=(-DGGML_NATIVE=OFF -DGGML_CPU_ARM_ARCH="$LLAMA_MARCH")
	fi
	configure "$build" -DLLAMA_BUILD_TESTS=OFF -DGGML_OPENMP=OFF "${march[@]}"
}

build() {
	configure_build
	compile "$build" llama llama-common "$@"
	merge
	if [[ $build != "$here/build" ]]; then
		ln -sf libfedllama.a "$build/libbinding.a"
	fi
}

build_asan() {
	fetch
	apply "$src"
	configure "$here/build-asan" -DLLAMA_BUILD_TESTS=OFF -DGGML_OPENMP=OFF -DLLAMA_FED_SANITIZE=ON
	compile "$here/build-asan" test-calls test-archs
}

build_rpc() {
	fetch
	apply "$src"
	configure "$here/build-rpc" -DLLAMA_BUILD_TESTS=OFF -DGGML_OPENMP=OFF -DGGML_RPC=ON
	compile "$here/build-rpc" llama-bench ggml-rpc-server
}

# The libraries find each other in their own folder, wherever that is; the program needs the same $ORIGIN.
build_shared() {
	fetch
	apply "$src"
	# shellcheck disable=SC2016 # $ORIGIN is the dynamic linker's
	configure "$shared" -DLLAMA_BUILD_TESTS=OFF -DGGML_OPENMP=OFF -DBUILD_SHARED_LIBS=ON -DGGML_NATIVE=OFF \
		-DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON \
		-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON -DCMAKE_INSTALL_RPATH='$ORIGIN'
	compile "$shared" llama llama-common
	# a linker script in the place of the archive
	printf 'INPUT(%s)\n' "$(printf "$shared/bin/%s " libllama-common.so libllama.so libggml.so libggml-base.so)" \
		>"$shared/libbinding.a"
}

tests() {
	(($# > 0)) || die "tests: which ones?"
	fetch
	apply "$src"
	# some tests ask for four threads whatever the machine has: only OpenMP's barriers sleep when cores are fewer
	configure "$here/build-tests" -DLLAMA_BUILD_TESTS=ON -DGGML_OPENMP=ON
	compile "$here/build-tests" "$@"
}

case ${1:-} in
fetch) fetch ;;
patch) fetch && apply "$src" ;;
patch-check) patch_check ;;
build) build ;;
shared) build_shared ;;
test-archs) build test-archs test-codec test-calls ;;
codec) configure_build && compile "$build" test-codec ;;
leaks) build test-leaks ;;
asan) build_asan ;;
bench) build llama-bench ;;
rpc) build_rpc ;;
tests)
	shift
	tests "$@"
	;;
*)
	sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
	exit 2
	;;
esac
