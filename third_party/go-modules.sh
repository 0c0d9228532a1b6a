#!/usr/bin/env bash
# Keeps the Go modules of go.sum under modules/, so that a build without a network, that of an image for one, has them:
#
#   GOPROXY=file://$PWD/third_party/modules/cache/download GOSUMDB=off go build ./cmd/fedattn
#
# What this machine's module cache has is not downloaded again. go.sum is checked here and once more by that build.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=$here/modules
want=$(cat "$here/../go.mod" "$here/../go.sum" | sha256sum)

if [[ $(cat "$dir/.locked" 2>/dev/null) == "$want" ]]; then
	exit 0
fi
rm -rf "$dir"
mkdir -p "$dir"
cd "$here/.."
printf 'collecting the Go modules in %s\n' "third_party/modules" >&2
GOPROXY="file://$(go env GOMODCACHE)/cache/download,$(go env GOPROXY)" GOMODCACHE=$dir GOFLAGS=-modcacherw go mod download
# the unpacked copies are for this machine's compiler, which has its own
find "$dir" -mindepth 1 -maxdepth 1 ! -name cache -exec rm -rf {} +
printf '%s' "$want" >"$dir/.locked"
