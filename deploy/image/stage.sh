#!/usr/bin/env bash
# What the image's build stage runs, in this order; the Dockerfile makes a layer of each.
#
#   stage.sh tools ARCH              compilers, for ARCH if that is not this machine's (arm64, amd64; empty: this one)
#   stage.sh libraries ARCH          llama.cpp as shared libraries
#   stage.sh program ARCH VERSION    fedattn, and all that goes into the image, under $OUT (/out)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=${OUT:-/out}

die() {
	printf 'image: %s\n' "$*" >&2
	exit 1
}

declare -A triplets=([amd64]=x86_64-linux-gnu [arm64]=aarch64-linux-gnu)
here=$(go env GOARCH)
arch=${2:-$here}
triplet=${triplets[$arch]:-}
[[ -n $triplet ]] || die "there is no image for $arch; there is one for each of ${!triplets[*]}"
if [[ $arch != "$here" ]]; then
	export LLAMA_TARGET=$triplet
fi

case ${1:-} in
tools)
	third_party/system-packages.sh cxx cmake ninja patch python3 pip ccache ca-certificates \
		${LLAMA_TARGET:+"cxx-$LLAMA_TARGET"}
	;;
libraries)
	third_party/llama.cpp/supply.sh shared
	;;
program)
	# what make image has fetched beforehand is here; otherwise the network has it
	modules=$PWD/third_party/modules
	if [[ -f $modules/.locked ]]; then
		export GOPROXY=file://$modules/cache/download GOSUMDB=off
	fi
	third_party/go-llama.cpp/supply.sh headers
	libraries=$PWD/third_party/llama.cpp/build-shared${LLAMA_TARGET:+-$LLAMA_TARGET}
	mkdir -p "$out"/{opt/fedattn,usr/local/bin,etc/ssl/certs} "$out"/{models,config}
	if [[ -n ${LLAMA_TARGET:-} ]]; then
		export CC=$LLAMA_TARGET-gcc CXX=$LLAMA_TARGET-g++
	fi
	# shellcheck disable=SC2016 # $ORIGIN is the dynamic linker's
	CGO_ENABLED=1 GOARCH=$arch CGO_LDFLAGS="-L$libraries -Wl,-rpath,\$ORIGIN" \
		go build -buildvcs=false -trimpath -ldflags "-s -w -X main.version=${3:-unknown}" -o "$out/opt/fedattn/fedattn" ./cmd/fedattn
	cp -a "$libraries"/bin/*.so* "$out/opt/fedattn/"
	"${LLAMA_TARGET:+$LLAMA_TARGET-}strip" --strip-unneeded "$out"/opt/fedattn/*.so
	ln -s ../../../opt/fedattn/fedattn "$out/usr/local/bin/fedattn"
	cp /etc/ssl/certs/ca-certificates.crt "$out/etc/ssl/certs/"
	# numbers, so that the image needs no line in its list of users
	chown 10001:10001 "$out"/{models,config}
	chmod 700 "$out/config"
	;;
*)
	sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
	exit 2
	;;
esac
