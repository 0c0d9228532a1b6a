#!/usr/bin/env bash
# Downloads one locked file from the Python package index.
#
#   fetch-package.sh wheel NAME VERSION SHA256 FILE
#   fetch-package.sh sdist NAME VERSION SHA256 FILE BACKEND
#
# pip checks the hash before it opens what it downloaded, and the file is hashed again here. FILE appears whole or not
# at all. When it is there with the right hash, nothing is downloaded. For a source package pip also runs the package's
# build backend to read its metadata: BACKEND is a requirements file that pins it and all that it needs by hash.
set -euo pipefail

if (($# != 5 && $# != 6)); then
	sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
	exit 2
fi
kind=$1 name=$2 version=$3 sha256=$4 file=$5 backend=${6:-}

die() {
	printf '%s %s: %s\n' "$name" "$version" "$*" >&2
	exit 1
}

matches() { [[ -f $1 ]] && sha256sum --status -c - <<<"$sha256  $1"; }

if matches "$file"; then
	exit 0
fi

case $kind in
sdist) only=--no-binary ;;
wheel) only=--only-binary ;;
*) die "unknown kind of package: $kind" ;;
esac

if python3 -m pip --version >/dev/null 2>&1; then
	pip=(python3 -m pip)
elif command -v pip3 >/dev/null; then
	pip=(pip3)
else
	die "pip is missing"
fi

mkdir -p "$(dirname "$file")"
tmp=$(mktemp -d "$file.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

printf '%s==%s --hash=sha256:%s\n' "$name" "$version" "$sha256" >"$tmp/lock.txt"
printf '%s %s: downloading\n' "$name" "$version" >&2
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# run COMMAND...: with pip's own progress on a terminal, silent otherwise
run() {
	if [[ -t 2 ]]; then
		"$@" >&2 || die "the download failed"
	elif ! "$@" >"$tmp/log" 2>&1; then
		tail -n 20 "$tmp/log" >&2
		die "the download failed"
	fi
}
isolation=()
if [[ -n $backend ]]; then
	run "${pip[@]}" install --quiet --no-input --no-deps --require-hashes --only-binary :all: --target "$tmp/backend" \
		-r "$backend"
	export PYTHONPATH=$tmp/backend
	isolation=(--no-build-isolation)
fi
run "${pip[@]}" download --no-input --no-deps --require-hashes "${isolation[@]}" "$only" "$name" -r "$tmp/lock.txt" \
	-d "$tmp/files"

downloaded=("$tmp"/files/*)
matches "${downloaded[0]}" || die "wrong sha256, expected $sha256"
mv -f "${downloaded[0]}" "$file"
