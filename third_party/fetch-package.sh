#!/usr/bin/env bash
# Downloads one locked file from the Python package index.
#
#   fetch-package.sh sdist|wheel NAME VERSION SHA256 FILE
#
# pip checks the hash before it opens what it downloaded, and the file is hashed again here. FILE appears whole or not
# at all. When it is there with the right hash, nothing is downloaded.
set -euo pipefail

if (($# != 5)); then
	sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
	exit 2
fi
kind=$1 name=$2 version=$3 sha256=$4 file=$5

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
command=(env PIP_DISABLE_PIP_VERSION_CHECK=1 "${pip[@]}" download --no-input --no-deps --require-hashes
	"$only" "$name" -r "$tmp/lock.txt" -d "$tmp/files")
if [[ -t 2 ]]; then
	"${command[@]}" >&2 || die "the download failed"
elif ! "${command[@]}" >"$tmp/log" 2>&1; then
	tail -n 20 "$tmp/log" >&2
	die "the download failed"
fi

downloaded=("$tmp"/files/*)
matches "${downloaded[0]}" || die "wrong sha256, expected $sha256"
mv -f "${downloaded[0]}" "$file"
