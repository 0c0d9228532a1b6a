#!/usr/bin/env bash
# Two devices on one network, from their pairing to an answer after one of them was killed and came back. Run by
# `make test-lan`, without root: each device is a network namespace, with folders of its own, inside a user namespace that
# ends with this script.
#
#   test.sh FEDATTN MODEL
#
#     garden-pi ── lan ──────────── lan ── laptop
#     a text, a node                       asks
#
# Exit code 0: every step did what its line says, or this machine does not let an ordinary user make networks, and then the
# only line says so.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ ${LAN_TEST_INSIDE:-} != yes ]]; then
	if (($# != 2)); then
		sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
		exit 2
	fi
	PATH=$PATH:/usr/sbin:/sbin
	skip() { printf 'test-lan: skipped: %s\n' "$*" && exit 0; }
	for tool in unshare nsenter ip timeout; do
		command -v "$tool" >/dev/null || skip "$tool is not installed, and networks of one's own need it"
	done
	# a namespace of processes, too: whatever still runs when its first one ends is ended with it
	apart=(unshare --user --map-root-user --net --mount --pid --fork --mount-proc --kill-child)
	"${apart[@]}" ip link add one type veth peer name other 2>/dev/null ||
		skip 'this machine does not let an ordinary user make networks (user namespaces, veth)'
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	LAN_TEST_INSIDE=yes "${apart[@]}" bash "${BASH_SOURCE[0]}" "$(realpath "$1")" "$(realpath "$2")" "$work"
	exit
fi

fedattn=$1 model=$2 work=$3
text=$here/../../demo/workshop.txt
question='Where does the spare key of the workshop hang?'
fact='blue paint bucket'

step=0
did() { printf '%2d. %s\n' $((step += 1)) "$*"; }
# fail SENTENCE [FILE…]: with what these files say
fail() {
	printf 'test-lan: after step %d: %s\n' "$step" "$1" >&2
	for log in "${@:2}"; do sed "s|^|  ${log##*/}: |" "$log" >&2; done
	exit 1
}
# await SENTENCE COMMAND…: until it succeeds, five minutes at most, on a busy machine
await() {
	for ((i = 0; i < 3000; i++)); do
		! "${@:2}" >/dev/null 2>&1 || return 0
		sleep 0.1
	done
	fail "$1" "$work"/*.log
}

# enter DEVICE COMMAND…: this process becomes the command, in the device's network and with its folders
enter() {
	local home=$work/$1
	exec env HOME="$home" XDG_CONFIG_HOME="$home/config" XDG_CACHE_HOME="$home/cache" XDG_RUNTIME_DIR="$home/run" FEDATTN_NAME="$1" \
		nsenter --net="/run/netns/$1" -- "${@:2}"
}
on() { (enter "$@"); }
# at DEVICE COMMAND…: fedattn there, two minutes at most
at() { (enter "$1" timeout 120 "$fedattn" "${@:2}"); }

mount -t tmpfs none /run
mkdir /run/netns
for device in garden-pi laptop; do
	ip netns add "$device"
	mkdir -p "$work/$device"/{config,cache,run}
done
ip link add lan netns garden-pi type veth peer name lan netns laptop
# joins DEVICE ADDRESS: the network, with this address instead of what it had
joins() {
	on "$1" ip addr flush dev lan
	on "$1" ip addr add "$2/24" dev lan
	on "$1" ip link set lo up
	on "$1" ip link set lan up
	on "$1" ip route replace default dev lan
}
joins garden-pi 192.168.7.20
joins laptop 192.168.7.30
did 'two devices on one network: garden-pi at 192.168.7.20, laptop at 192.168.7.30'

at garden-pi invite >"$work/invitation" 2>"$work/invite.log" &
inviting=$!
await 'garden-pi does not invite' grep -q '^fedattn://' "$work/invitation"
at laptop join <"$work/invitation" 2>"$work/join.log" || fail 'the laptop cannot join' "$work"/{join,invite}.log
wait "$inviting" || fail 'the invitation was not taken' "$work/invite.log"
for paired in join:garden-pi invite:laptop; do
	grep -q "^paired with ${paired#*:}, " "$work/${paired%:*}.log" || fail 'not paired' "$work"/{join,invite}.log
done
at garden-pi peers set --trust rows laptop 2>"$work/trust.log"
did "paired by fedattn invite and fedattn join; garden-pi trusts laptop with rows"

# starts: garden-pi's node, $node
starts() {
	: >"$work/node.addr"
	enter garden-pi "$fedattn" node --model "$model" --threads 1 --doc "$text" >"$work/node.addr" 2>>"$work/node.log" &
	node=$!
	await 'the node does not start' test -s "$work/node.addr"
}
joins garden-pi 192.168.7.21
starts
did 'garden-pi has another address now, 192.168.7.21, which nobody tells the laptop, and its node runs'

at laptop status --no-mdns >"$work/status.log"
! grep -q 'garden-pi .* here' "$work/status.log" || fail 'the laptop reaches garden-pi without mDNS: nothing is found, nothing tested' "$work/status.log"
found() { at laptop status >"$work/status.log" && grep -q 'garden-pi .*192\.168\.7\.21:7843 .*here, ' "$work/status.log"; }
await 'the laptop does not find garden-pi' found
did "fedattn status: found by mDNS,$(grep -o 'garden-pi .*' "$work/status.log" | tr -s ' ' | sed 's/^/ /')"

# ask NAME QUESTION FLAGS…: the answer is in NAME.answer, the report in NAME.log
ask() {
	at laptop chat --model "$model" --threads 1 --setup-timeout 60s "${@:3}" <<<"$2" >"$work/$1.answer" 2>"$work/$1.log"
}
# chat NAME QUESTION FLAGS…: the same, asked again on a machine so busy that the node was not found in time
chat() {
	for ((tries = 0; tries < 5; tries++)); do
		! ask "$@" || return 0
		grep -q 'no peer takes part' "$work/$1.log" || return 1
	done
	return 1
}
knows() { grep -qF "$fact" "$work/$1.answer"; }

chat alone "$question" --predict 40 || fail 'no answer without peers' "$work/alone.log"
! knows alone || fail 'the model alone knows the answer, so it proves nothing' "$work/alone.answer"
chat first "$question" --predict 40 --peer garden-pi || fail 'no answer' "$work"/{first,node}.log
knows first || fail 'the answer lacks what only garden-pi knows' "$work"/first.{answer,log}
grep -q '| peers 1/1 |' "$work/first.log" || fail 'garden-pi took no part' "$work/first.log"
did "fedattn chat, the question on standard input: $(tr '\n' ' ' <"$work/first.answer")"

# with rows that stay home every token of the answer needs the node
chat killed 'Tell me everything about the workshop, in many sentences.' --predict 200 --peer garden-pi --schedule home &
asking=$!
await 'no answer begins' test -s "$work/killed.answer"
disown "$node" # bash would say that it was killed
kill -KILL "$node"
kill -0 "$asking" 2>/dev/null || fail 'INVALID: the answer was over before the node was killed' "$work"/killed.{answer,log}
wait "$asking" || fail 'no answer from what is left' "$work"/{killed,node}.log
missing=$(grep 'missing: garden-pi' "$work/killed.log" | tail -n 1) || fail 'the answer does not say who is missing' "$work/killed.log"
did "killed in the middle of an answer (kill -9), which comes to its end and says: $missing"

! ask away "$question" --predict 40 --peer garden-pi || fail 'an answer rests on a peer that is not there' "$work/away.log"
grep -q '^fedattn: no peer takes part: .*garden-pi' "$work/away.log" || fail 'it is not said who is away' "$work/away.log"
did "a question while it is away: $(sed 's/^fedattn: //' "$work/away.log")"

starts
chat again "$question" --predict 40 --peer garden-pi || fail 'no answer after the restart' "$work"/{again,node}.log
cmp -s "$work"/{first,again}.answer || fail 'after the restart the answer is another one' "$work"/{first,again}.answer "$work/again.log"
did 'the node runs again, and the next question has the same answer as before'

kill -TERM "$node"
wait "$node" || fail 'the node does not end in order' "$work/node.log"
did 'the node was told to stop and ended in order'
