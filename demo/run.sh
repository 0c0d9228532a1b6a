#!/usr/bin/env bash
# Three nodes hold three private texts, a fourth device asks. Run by `make demo`.
#
#   run.sh FEDATTN MODEL
#
# Exit code 0: the federated answer has the fact that only one node knows, the answer without peers has not, and no
# piece of the texts crossed the wire.
set -euo pipefail

if (($# != 2)); then
	sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
	exit 2
fi
fedattn=$(realpath "$1") model=$(realpath "$2")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

nodes=(garden-pi laptop workshop)
question='Where does the spare key of the workshop hang?'
fact='blue paint bucket'

work=$(mktemp -d)
pids=()
cleanup() {
	((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
	wait
	rm -rf "$work"
}
trap cleanup EXIT

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[[ -t 1 && -z ${NO_COLOR:-} ]] || say() { printf '\n%s\n' "$*"; }
fail() {
	printf 'demo: %s\n' "$*" >&2
	exit 1
}

say "Three devices, each with a text that stays where it is (this machine plays all of them)"
asker=$("$fedattn" id --config "$work/asker")
for name in "${nodes[@]}"; do
	printf '  %-10s %s\n' "$name" "$(head -n 1 "$here/$name.txt") …"
	"$fedattn" node --model "$model" --threads 1 --doc "$here/$name.txt" --name "$name" --listen 127.0.0.1:0 \
		--config "$work/$name" --allow "$asker" >"$work/$name.addr" 2>"$work/$name.log" &
	pids+=($!)
done

peers=()
for n in "${!nodes[@]}"; do
	name=${nodes[n]}
	for ((i = 0; i < 600; i++)); do
		[[ ! -s $work/$name.addr ]] || break
		kill -0 "${pids[n]}" 2>/dev/null || { cat "$work/$name.log" >&2 && fail "$name ended"; }
		sleep 0.1
	done
	[[ -s $work/$name.addr ]] || { cat "$work/$name.log" >&2 && fail "$name did not start within a minute"; }
	peers+=(--peer "$(cat "$work/$name.addr")")
done

ask() { "$fedattn" ask --model "$model" --threads 1 --config "$work/asker" --name asker --predict 40 "$@"; }

say "A fourth device asks over all of them: $question"
ask "${peers[@]}" --verbose --record "$work/wire" "$question" 2>"$work/report" | tee "$work/answer" || {
	cat "$work/report" >&2
	fail 'no answer'
}
cat "$work/report"

say 'The same question, asked alone'
ask "$question" 2>/dev/null | tee "$work/alone"

say 'What crossed the links to and from the asker, before encryption'
absent=()
for name in "${nodes[@]}"; do absent+=(--absent "$here/$name.txt"); done
"$fedattn" inspect --model "$model" --threads 1 "${absent[@]}" "$work/wire"
cat <<'END'
These blocks are rows of the model's attention, not text. But rows can be turned back into text by whoever has the
same model, and the asker has it: rows go only to devices that the owner allows. docs/threat-model.md says more.
END

grep -qF "$fact" "$work/answer" || fail "the answer does not say '$fact'"
! grep -qF "$fact" "$work/alone" || fail "the answer without peers knows the fact: it proves nothing"
say "The answer has the fact that only the workshop's text holds: $fact"
