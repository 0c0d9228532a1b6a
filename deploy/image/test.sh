#!/usr/bin/env bash
# Builds the image without a daemon and without a registry, and runs three containers of it as three nodes on loopback
# that a fourth one asks. Run by `make test-image`, as root: buildah, with chroots for isolation.
#
#   test.sh MODEL
#
# Environment: IMAGE   test this image that buildah has, and build none
#              and that of build.sh
set -euo pipefail

model=$(realpath "${1:?the model file}")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
most=150000000 # bytes that the image may have without a model

fail() {
	printf 'test-image: %s\n' "$*" >&2
	exit 1
}
say() { printf '%s\n' "$*"; }

((EUID == 0)) || fail 'chroots need root: run make test-image as root, or make image and try the image with your engine'
third_party/system-packages.sh buildah

image=${IMAGE:-}
if [[ -z $image ]]; then
	image=localhost/fedattn-test
	BASES=debootstrap CONTAINER_ENGINE=buildah deploy/image/build.sh "$image"
fi

# family PID…: these processes and all that they started, the youngest first
family() {
	local pid
	for pid; do
		# shellcheck disable=SC2046 # a list of numbers
		family $(pgrep -P "$pid")
		printf '%s\n' "$pid"
	done
}

work=$(mktemp -d)
containers=()
pids=()
cleanup() {
	if ((${#pids[@]} > 0)); then
		# shellcheck disable=SC2046 # a list of numbers
		kill -KILL $(family "${pids[@]}") 2>/dev/null || true
	fi
	wait
	((${#containers[@]} == 0)) || buildah rm "${containers[@]}" >/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT

# what the image says of itself
said() { buildah inspect --type image --format "{{.Docker.Config.$1}}" "$image"; }
[[ $(said User) == 10001:10001 ]] || fail "it runs as $(said User)"
[[ $(said StopSignal) == SIGTERM ]] || fail "it is stopped by $(said StopSignal)"
[[ $(said Healthcheck.Test) == '[CMD fedattn health]' ]] || fail "its health is asked by $(said Healthcheck.Test)"
[[ $(said Volumes) == *'/models'* && $(said Volumes) == *'/config'* ]] || fail "its volumes are $(said Volumes)"
for label in title description licenses version base.name; do
	[[ -n $(buildah inspect --type image --format "{{index .Docker.Config.Labels \"org.opencontainers.image.$label\"}}" "$image") ]] || fail "it has no label $label"
done
say "user $(said User), stop signal $(said StopSignal), health $(said Healthcheck.Test), volumes $(said Volumes)"

# container: a new one, $container
container() {
	container=$(buildah from "$image")
	containers+=("$container")
}
# in_container NAME CONTAINER COMMAND…: as the image's user, with the model and a text; the network is this machine's. The
# model is not at /models: there buildah puts the volume that the image names.
in_container() {
	local name=$1 c=$2
	shift 2
	buildah run --isolation=chroot --volume "$(dirname "$model"):/srv:ro" --volume "$work/$name:/text:ro" "$c" -- "$@"
}

container
asker=$container
mkdir "$work/asker"
root=$(buildah mount "$asker")
size=$(du -sb --exclude="$root/models/*" "$root" | cut -f 1)
((size < most)) || fail "it has $size bytes, allowed are fewer than $most"
say "size without a model: $size bytes, of them fedattn and its libraries $(du -sbL "$root/opt/fedattn" | cut -f 1)"
backends=("$root"/opt/fedattn/libggml-cpu*.so)
[[ -f ${backends[0]} ]] || fail 'it has no CPU backend'
say "CPU backends: ${#backends[@]}"
[[ $(in_container asker "$asker" id -u) == 10001 ]] || fail 'the user in the container is not the one that the image names'
say "$(in_container asker "$asker" fedattn --version)"
if in_container asker "$asker" fedattn health 2>/dev/null; then fail 'a container without a node is healthy'; fi

id=$(in_container asker "$asker" fedattn id)
names=(garden-pi laptop workshop)
started=()
for name in "${names[@]}"; do
	container
	started+=("$container")
	mkdir "$work/$name"
	cp "demo/$name.txt" "$work/$name/text.txt"
	chmod -R a+rX "$work"
	in_container "$name" "$container" fedattn node --model "/srv/${model##*/}" --threads 1 --doc /text/text.txt --name "$name" \
		--listen 127.0.0.1:0 --allow "$id" >"$work/$name.addr" 2>"$work/$name.log" &
	pids+=($!)
done
peers=()
for n in "${!names[@]}"; do
	name=${names[n]}
	for ((i = 0; i < 1200; i++)); do
		[[ ! -s $work/$name.addr ]] || break
		kill -0 "${pids[n]}" 2>/dev/null || { cat "$work/$name.log" >&2 && fail "$name ended"; }
		sleep 0.1
	done
	[[ -s $work/$name.addr ]] || { cat "$work/$name.log" >&2 && fail "$name did not start within two minutes"; }
	peers+=(--peer "$(cat "$work/$name.addr")")
	in_container "$name" "${started[n]}" fedattn health || fail "$name is not healthy"
done

# process of a node: the youngest of those that lead to it
node_pid() {
	local pid
	for pid in $(family "$1"); do
		if [[ $(cat "/proc/$pid/comm") == fedattn ]]; then
			printf '%s\n' "$pid"
			return
		fi
	done
}
for n in "${!names[@]}"; do
	pid=$(node_pid "${pids[n]}")
	[[ -n $pid ]] || fail "no process of ${names[n]} is found"
	[[ $(awk '/^Uid:/ { print $2 }' "/proc/$pid/status") == 10001 ]] || fail "${names[n]} runs as another user"
	code=$(grep -o '/opt/fedattn/libggml-cpu[^/ ]*\.so[^ ]*' "/proc/$pid/maps" | sort -u)
	[[ -n $code ]] || fail "${names[n]} has loaded no CPU backend"
	say "${names[n]}: process $pid, user 10001, $code"
done

question='Where does the spare key of the workshop hang?'
in_container asker "$asker" fedattn ask --model "/srv/${model##*/}" --threads 1 --predict 40 --name asker "${peers[@]}" \
	"$question" >"$work/answer" 2>"$work/report" || { cat "$work/report" >&2 && fail 'no answer'; }
cat "$work/answer" "$work/report"
grep -qF 'blue paint bucket' "$work/answer" || fail 'the answer lacks the fact that one container holds'
[[ $(wc -l <"$work/report") == 1 ]] || fail 'there is more on stderr than the line about the answer'
grep -qF 'peers 3/3' "$work/report" || fail 'somebody is missing'

for n in "${!names[@]}"; do
	kill -TERM "$(node_pid "${pids[n]}")"
done
for n in "${!names[@]}"; do
	begin=$SECONDS
	wait "${pids[n]}" || fail "${names[n]} ended with $? after SIGTERM"
	((SECONDS - begin <= 5)) || fail "${names[n]} took $((SECONDS - begin)) s to end"
done
pids=()
say 'all three ended in order after SIGTERM'
