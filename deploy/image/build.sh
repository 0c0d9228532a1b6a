#!/usr/bin/env bash
# Builds the image with whatever builds images here. Run by `make image`.
#
#   build.sh [TAG]      default: fedattn
#
# Environment: CONTAINER_ENGINE  docker, podman or buildah; default: the first one that works
#              DOCKERFILE        Dockerfile (default) or Dockerfile.jetson
#              PLATFORM          linux/arm64 or linux/amd64; default: this machine's
#              GO_IMAGE, BASE_IMAGE, CUDA_IMAGE, GOPROXY, PIP_INDEX_URL, HTTP_PROXY, HTTPS_PROXY, NO_PROXY, JOBS, LLAMA_CMAKE, VERSION
#                                become build arguments if they are set
#              IMAGE_FLAGS       further flags of the engine
#              BASES             registry or debootstrap: where GO_IMAGE and BASE_IMAGE come from if they are not given;
#                                default: the registry, and debootstrap (base.sh, as root) where none answers to buildah.
#                                The steps of the build then run in chroots, which needs no container runtime
#
# llama.cpp's source and the Go modules are taken from third_party/ where make deps has put them.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
tag=${1:-fedattn}

works() {
	case $1 in
	docker) docker version ;;
	podman) podman info ;;
	buildah) buildah version ;;
	*) return 1 ;;
	esac >/dev/null 2>&1
}

engine=${CONTAINER_ENGINE:-}
for candidate in docker podman buildah; do
	[[ -z $engine ]] || break
	! works "$candidate" || engine=$candidate
done
if [[ -z $engine ]] && ((EUID == 0)) && command -v apt-get >/dev/null; then
	third_party/system-packages.sh buildah
	engine=buildah
fi
if [[ -z $engine ]] || ! works "$engine"; then
	printf 'image: %s; install docker, podman or buildah\n' "${engine:+$engine does not work here}${engine:-nothing here builds images}" >&2
	exit 1
fi

file=${DOCKERFILE:-Dockerfile}
flags=(--file "$file" --tag "$tag")

# answers: whether a registry has the base images that the Dockerfile names
answers() {
	local image
	while read -r image; do
		timeout 120 buildah pull --quiet "$image" >/dev/null 2>&1 </dev/null || return 1
	done < <(sed -n 's/^ARG BASE_IMAGE=//p; s/^ARG GO_IMAGE=//p' "$file")
}
bases=${BASES:-}
if [[ -z $bases && $engine == buildah && $file == Dockerfile && -z ${GO_IMAGE:-}${BASE_IMAGE:-}${PLATFORM:-} ]] && ((EUID == 0)) && ! answers; then
	printf 'no registry has the base images: making them here\n' >&2
	bases=debootstrap
fi
case $bases in
'' | registry) ;;
debootstrap)
	GO_IMAGE=localhost/fedattn-golang BASE_IMAGE=localhost/fedattn-slim
	deploy/image/base.sh "$BASE_IMAGE" "$GO_IMAGE"
	flags+=(--isolation=chroot)
	;;
*)
	printf 'image: BASES=%s is neither registry nor debootstrap\n' "$bases" >&2
	exit 2
	;;
esac

for name in GO_IMAGE BASE_IMAGE CUDA_IMAGE GOPROXY PIP_INDEX_URL HTTP_PROXY HTTPS_PROXY NO_PROXY JOBS LLAMA_CMAKE VERSION; do
	[[ -z ${!name:-} ]] || flags+=(--build-arg "$name=${!name}")
done
if [[ -n ${PLATFORM:-} ]]; then
	flags+=(--platform "$PLATFORM")
fi
# health checks are not in the OCI format
[[ $engine == docker ]] || flags+=(--format docker --layers)
# shellcheck disable=SC2206 # IMAGE_FLAGS is a list
flags+=(${IMAGE_FLAGS:-})

printf 'building the image %s with %s\n' "$tag" "$engine" >&2
DOCKER_BUILDKIT=1 exec "$engine" build "${flags[@]}" .
