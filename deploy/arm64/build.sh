#!/usr/bin/env bash
# Compiles fedattn for arm64 on a machine that is none. Run by `make cross-arm64`.
#
#   build.sh [VERSION]     dist/fedattn-linux-arm64           for any 64-bit ARM processor, a Raspberry Pi 3 or 4 for one
#                          dist/fedattn-linux-arm64-dotprod   for those with ARMv8.2's dot products: Raspberry Pi 5, Orin
#
# Environment: JOBS, LLAMA_CMAKE as for third_party/llama.cpp/supply.sh
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target=aarch64-linux-gnu

third_party/system-packages.sh cxx-$target
third_party/go-llama.cpp/supply.sh headers
mkdir -p dist
build() { # MARCH FILE
	LLAMA_TARGET=$target LLAMA_MARCH=$1 third_party/llama.cpp/supply.sh build
	# libraries may have changed without Go noticing
	rm -f "$2"
	GOOS=linux GOARCH=arm64 CGO_ENABLED=1 CC=$target-gcc CXX=$target-g++ \
		CGO_LDFLAGS="-L$PWD/third_party/llama.cpp/build-$target-$1 -static-libstdc++ -static-libgcc" \
		go build -buildvcs=false -trimpath -ldflags "-s -w -X main.version=${version}" -o "$2" ./cmd/fedattn
	printf '%s: %s bytes\n' "$2" "$(stat -c %s "$2")"
}
version=${1:-unknown}
build armv8-a dist/fedattn-linux-arm64
build armv8.2-a+dotprod dist/fedattn-linux-arm64-dotprod
