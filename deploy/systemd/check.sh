#!/usr/bin/env bash
# Holds the systemd unit against systemd itself, where it is installed.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
if ! command -v systemd-analyze >/dev/null; then
	echo 'systemd-analyze is not here: fedattn.service is not checked'
	exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# the program and its settings need not be installed for that
sed -e "s|^ExecStart=/usr/bin/fedattn|ExecStart=$(command -v true)|" fedattn.service >"$work/fedattn.service"
found=$(systemd-analyze verify --man=no "$work/fedattn.service" 2>&1) || {
	printf '%s\n' "$found" >&2
	exit 1
}
if [[ -n $found ]]; then
	printf '%s\n' "$found" >&2
	exit 1
fi
echo "fedattn.service: $(systemd-analyze security --offline=true "$work/fedattn.service" 2>/dev/null | tail -n 1 | sed 's/^[^A-Za-z]*//')"
