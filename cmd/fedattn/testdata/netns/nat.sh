#!/usr/bin/env bash
# A publisher and two contributors, each of these behind a NAT of its own, in network namespaces of a user namespace of
# their own (unshare -Urnm). Run by TestNetworkNamespaces.
#
#   nat.sh up FOLDER          makes the networks; nat.sh then runs COMMANDS of FOLDER until stdin ends
#
#     publisher 198.51.100.1 ──┬── 198.51.100.2 nat-a 10.0.1.1 ── a 10.0.1.2
#                              └── 198.51.100.3 nat-b 10.0.2.1 ── b 10.0.2.2
#
# Each NAT forwards UDP port 7700 to its contributor, for packets of the publisher only, and drops what nobody asked for.
# Lines on stdin are commands for bash here, where `on NAME COMMAND…` runs one in a namespace; each is answered by a line
# "done CODE".
set -uo pipefail

die() {
	printf 'cannot: %s\n' "$*"
	exit 3
}
mount -t tmpfs none /run 2>/dev/null || die 'mount in a namespace'
mkdir -p /run/netns
on() { nsenter --net="/run/netns/$1" -- "${@:2}"; }
for name in publisher nat-a nat-b a b; do
	ip netns add "$name" 2>/dev/null || die 'make network namespaces'
	on "$name" ip link set lo up
done
ip link set lo up
ip link add wire type bridge 2>/dev/null || die 'make a bridge'
ip link set wire up

# link NAMESPACE DEVICE ADDRESS: a device that is on the wire
link() {
	ip link add "$1" type veth peer name "$2" netns "$1" || die 'make a pair of devices'
	ip link set "$1" master wire up
	on "$1" ip addr add "$3" dev "$2"
	on "$1" ip link set "$2" up
}
link publisher wan 198.51.100.1/24
for side in a:2 b:3; do
	name=${side%:*} host=${side#*:} lan=$((${side#*:} - 1))
	link "nat-$name" wan "198.51.100.$host/24"
	on "nat-$name" ip link add lan type veth peer name lan netns "$name" || die 'make a pair of devices'
	on "nat-$name" ip addr add "10.0.$lan.1/24" dev lan
	on "nat-$name" ip link set lan up
	on "$name" ip addr add "10.0.$lan.2/24" dev lan
	on "$name" ip link set lan up
	on "$name" ip route add default via "10.0.$lan.1"
	on "nat-$name" sysctl -qw net.ipv4.ip_forward=1 || die 'forward packets'
	on "nat-$name" iptables -t nat -A POSTROUTING -o wan -j MASQUERADE 2>/dev/null || die 'translate addresses (iptables)'
	on "nat-$name" iptables -t nat -A PREROUTING -i wan -s 198.51.100.1 -p udp --dport 7700 -j DNAT --to "10.0.$lan.2:7700"
	on "nat-$name" iptables -P INPUT DROP
	on "nat-$name" iptables -P FORWARD DROP
	on "nat-$name" iptables -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT || die 'follow connections'
	on "nat-$name" iptables -A FORWARD -i lan -j ACCEPT
done
printf 'up\n'
while IFS= read -r line; do
	eval "$line"
	printf 'done %d\n' $?
done
# whatever still runs here ends with the namespace of processes
