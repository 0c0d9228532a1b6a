#!/usr/bin/env bash
# Runs what was compiled for arm64, under qemu's user emulation. Run by `make test-arm64`.
#
#   test.sh FEDATTN MODEL      FEDATTN: this machine's own program, which dist/fedattn-linux-arm64… are held against
#
# The unit tests of the packages without C, the bit-exact comparison of fedattn verify on each processor, a session of
# this machine's asker with an arm64 node, and how far the logits of both architectures are apart.
set -euo pipefail

fedattn=$(realpath "${1:?fedattn of this machine}") model=$(realpath "${2:?the model file}")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
baseline=$PWD/dist/fedattn-linux-arm64
dotprod=$PWD/dist/fedattn-linux-arm64-dotprod
text=cmd/fedattn/testdata/verify.txt
most=0.01 # mean KL divergence between architectures, in nats

say() { printf '\n%s\n' "$*"; }
fail() {
	printf 'test-arm64: %s\n' "$*" >&2
	exit 1
}

third_party/system-packages.sh qemu-aarch64 python3
qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64)
export QEMU_LD_PREFIX=/usr/aarch64-linux-gnu
# a Raspberry Pi 4 and a Raspberry Pi 5
pi4=("$qemu" -cpu cortex-a72 "$baseline")
pi5=("$qemu" -cpu cortex-a76 "$dotprod")

work=$(mktemp -d)
node=
cleanup() {
	[[ -z $node ]] || kill "$node" 2>/dev/null || true
	wait
	rm -rf "$work"
}
trap cleanup EXIT

say 'unit tests of packages without C, on a Cortex-A72'
QEMU_CPU=cortex-a72 GOARCH=arm64 CGO_ENABLED=0 go test -short -exec "$qemu" -timeout 20m \
	./fedkv ./fedkv/measure ./fedkv/profile ./fedkv/node/device ./fedkv/node/status ./models/gguf

cut=(--text "$text" --tokens 96 --prefix-tokens 8 --publisher-tokens 24 --participants 2)
for processor in pi4 pi5; do
	declare -n run=$processor
	say "fedattn verify, ${run[2]}: lockstep with every layer and f16 rows equals one process in every bit"
	"${run[@]}" verify --model "$model" --threads 1 "${cut[@]}"
done

say 'logits of one session on amd64 and on arm64'
logits() { # NAME COMMAND…
	"${@:2}" eval --model "$model" --threads 1 "${cut[@]}" --schedule lockstep --wire f16 --positions inplace \
		--format jsonl --logits-out "$work/$1.npy" >/dev/null
}
logits amd64 "$fedattn"
logits pi4 "${pi4[@]}"
logits pi5 "${pi5[@]}"
python3 deploy/arm64/compare.py "$most" "$work/amd64.npy" "$work/pi4.npy" "$work/pi5.npy"

say 'an arm64 node (Cortex-A76) and an amd64 asker in one session, and the same with an amd64 node'
id=$("$fedattn" id --config "$work/asker")
question='Where does the spare key of the workshop hang?'
for where in pi5 amd64; do
	declare -n run=$where
	# shellcheck disable=SC2034 # run refers to it
	amd64=("$fedattn")
	"${run[@]}" node --model "$model" --threads 1 --doc demo/workshop.txt --name "$where" --listen 127.0.0.1:0 \
		--config "$work/node" --allow "$id" >"$work/addr" 2>"$work/log" &
	node=$!
	for ((i = 0; i < 3000; i++)); do
		[[ ! -s $work/addr ]] || break
		kill -0 "$node" 2>/dev/null || { cat "$work/log" >&2 && fail "the node on $where ended"; }
		sleep 0.1
	done
	"$fedattn" ask --model "$model" --threads 1 --config "$work/asker" --predict 30 --timeout 10m \
		--peer "$(head -n 1 "$work/addr")" "$question" >"$work/$where.answer" 2>"$work/report" ||
		{ cat "$work/report" "$work/log" >&2 && fail "no answer with a node on $where"; }
	printf '%s: ' "$where" && cat "$work/$where.answer" "$work/report"
	kill "$node" && wait "$node"
	node=
	grep -qF 'blue paint bucket' "$work/$where.answer" || fail "the answer with a node on $where lacks the fact"
	: >"$work/addr"
done
if cmp -s "$work/pi5.answer" "$work/amd64.answer"; then
	echo 'both answers are the same'
else
	echo 'the answers differ in their words'
fi
