#!/usr/bin/env bash
# Makes the two base images of the Dockerfile where there is no image registry: a slim Debian by debootstrap, and the
# same with this machine's Go. As root.
#
#   base.sh SLIM GOLANG      the tags that they get
#
# Environment: SUITE   Debian's release (trixie)
#              MIRROR  where debootstrap takes packages from; default: this machine's own source
set -euo pipefail

slim=${1:?the tag of the slim image} golang=${2:?the tag of the image with Go}
suite=${SUITE:-trixie}
go=$(go env GOROOT)

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
third_party/system-packages.sh buildah debootstrap

work=$(mktemp -d)
containers=()
cleanup() {
	((${#containers[@]} == 0)) || buildah rm "${containers[@]}" >/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT

# from IMAGE: a container of it, mounted at $root
from() {
	container=$(buildah from "$1")
	containers+=("$container")
	root=$(buildah mount "$container")
}

if ! buildah inspect --type image "$slim" >/dev/null 2>&1; then
	printf 'making %s (debootstrap %s)\n' "$slim" "$suite" >&2
	# shellcheck disable=SC2016 # apt's own variable
	mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | head -n 1)}
	debootstrap --variant=minbase --include=ca-certificates "$suite" "$work/root" ${mirror:+"$mirror"} >"$work/log" 2>&1 || {
		tail -n 20 "$work/log" >&2
		exit 1
	}
	chroot "$work/root" apt-get clean
	(cd "$work/root" && rm -rf usr/share/{doc,man,locale,info,lintian}/* var/lib/apt/lists/* var/cache/{apt,debconf}/* var/log/*)
	from scratch
	cp -a "$work/root/." "$root/"
	buildah config --cmd /bin/bash "$container"
	buildah commit -q "$container" "$slim" >/dev/null
fi
if ! buildah inspect --type image "$golang" >/dev/null 2>&1; then
	printf 'making %s (%s)\n' "$golang" "$(go version)" >&2
	from "$slim"
	mkdir -p "$root/usr/local"
	cp -aL "$go" "$root/usr/local/go"
	buildah config --env PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
	buildah commit -q "$container" "$golang" >/dev/null
fi
