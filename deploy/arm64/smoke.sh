#!/usr/bin/env bash
# The part of make test-arm64 that every change can afford: rows are the same bits on arm64, in Go, which fuses
# multiplications and additions there, and in the code for NEON, on a Raspberry Pi 4's and a Raspberry Pi 5's processor under
# qemu. Run by `make smoke-arm64`.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
third_party/system-packages.sh cxx-aarch64-linux-gnu qemu-aarch64
qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64)
export QEMU_LD_PREFIX=/usr/aarch64-linux-gnu

LLAMA_TARGET=aarch64-linux-gnu LLAMA_MARCH=armv8-a third_party/llama.cpp/supply.sh codec
for processor in cortex-a72 cortex-a76; do
	"$qemu" -cpu "$processor" third_party/llama.cpp/build-aarch64-linux-gnu-armv8-a/bin/test-codec
	printf '%s, Go: ' "$processor"
	QEMU_CPU=$processor GOARCH=arm64 CGO_ENABLED=0 go test -count 1 -exec "$qemu" -run '^Test(Codec|CheckFinite|Half|NF3)' ./fedkv
done
