#!/usr/bin/env bash
# Makes sure that the named tools are on this machine.
#
#   system-packages.sh TOOL...      cxx cmake ninja patch python3 pip ccache ca-certificates
#                                   cxx-TRIPLET: a compiler for another machine, as in cxx-aarch64-linux-gnu
#                                   qemu-aarch64: runs programs for arm64, under this name or with -static behind it
#                                   others by the name that command and package share
#
# As root on a Debian-like system missing ones are installed. Anywhere else the command to install them is printed and
# the exit code is 1.
set -euo pipefail

present() {
	case $1 in
	cxx) command -v "${CC:-gcc}" >/dev/null && command -v "${CXX:-g++}" >/dev/null && command -v ar >/dev/null ;;
	cxx-*) command -v "${1#cxx-}-g++" >/dev/null ;;
	qemu-aarch64) command -v qemu-aarch64-static >/dev/null || command -v qemu-aarch64 >/dev/null ;;
	ca-certificates) [[ -f /etc/ssl/certs/ca-certificates.crt ]] ;;
	# ensurepip's remains do not count: only a pip that starts
	pip) python3 -m pip --version >/dev/null 2>&1 || pip3 --version >/dev/null 2>&1 ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

# package TOOL: what Debian calls it
package() {
	case $1 in
	cxx) echo g++ ;;
	cxx-*) echo "g++-$(tr _ - <<<"${1#cxx-}")" ;;
	ninja) echo ninja-build ;;
	pip) echo python3-pip ;;
	qemu-aarch64) echo qemu-user-static ;;
	*) echo "$1" ;;
	esac
}

missing=()
packages=()
for tool in "$@"; do
	if ! present "$tool"; then
		missing+=("$tool")
		packages+=("$(package "$tool")")
	fi
done
if ((${#missing[@]} == 0)); then
	exit 0
fi

if ! command -v apt-get >/dev/null; then
	printf 'missing on this machine: %s\ninstall them with your package manager and run make again\n' "${missing[*]}" >&2
	exit 1
fi
if ((EUID != 0)); then
	printf 'missing on this machine: %s\ninstall with: sudo apt-get update && sudo apt-get install -y %s\n' \
		"${missing[*]}" "${packages[*]}" >&2
	exit 1
fi

printf 'installing %s (apt-get)\n' "${packages[*]}" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
	DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends \
		"${packages[@]}" </dev/null >>"$log" 2>&1
}
# fresh images have no package lists, old ones name versions that are gone; both show as a failed install
if ! install; then
	printf 'refreshing the package lists (apt-get)\n' >&2
	if ! { apt-get -o DPkg::Lock::Timeout=120 update </dev/null >>"$log" 2>&1 && install; }; then
		tail -n 20 "$log" >&2
		exit 1
	fi
fi
for tool in "${missing[@]}"; do
	if ! present "$tool"; then
		printf '%s is still missing after installing %s\n' "$tool" "$(package "$tool")" >&2
		exit 1
	fi
done
