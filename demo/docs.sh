#!/usr/bin/env bash
# A day in the life: three nodes with folders, eight questions, answers with the passages that they rest on, a document
# withdrawn in the middle of a conversation, one over its budget and one that nobody gets. Run by `make demo-docs`.
#
#   docs.sh FEDATTN MODEL
#
# Exit code 0: the right document is among the passages in seven of eight questions at least, what is withdrawn, over its
# budget or refused is dealt with, and no piece of a document crossed the wire as text. What a small model makes of the
# passages is not judged.
set -euo pipefail

if (($# != 2)); then
	sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
	exit 2
fi
fedattn=$(realpath "$1") model=$(realpath "$2")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/docs
nodes=(garden-pi workshop kitchen)

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
# until_in FILE TEXT: waits until a text is in a file
until_in() {
	for ((t = 0; t < 600; t++)); do
		! grep -qF -- "$2" "$1" 2>/dev/null || return 0
		sleep 0.1
	done
	cat "$1" >&2
	fail "'$2' did not come within a minute"
}

cp -r "$here" "$work/docs"
asker=$("$fedattn" id --config "$work/asker")
say 'Three devices and their folders'
for name in "${nodes[@]}"; do
	"$fedattn" docs add --config "$work/$name" "$work/docs/$name"
done
"$fedattn" docs policy --config "$work/workshop" --tokens 220 'handbook*'
"$fedattn" docs policy --config "$work/kitchen" diary/ refuse
for name in "${nodes[@]}"; do
	echo "$name"
	"$fedattn" docs --config "$work/$name"
	"$fedattn" node --model "$model" --threads 1 --name "$name" --listen 127.0.0.1:0 --config "$work/$name" --allow "$asker" \
		>"$work/$name.addr" 2>"$work/$name.log" &
	pids+=($!)
done
peers=()
for name in "${nodes[@]}"; do
	until_in "$work/$name.addr" @
	peers+=(--peer "$(cat "$work/$name.addr")")
done
common=(--model "$model" --threads 1 --config "$work/asker" --name asker --context 1200 --share-question "${peers[@]}")

right=0 asked=0
while IFS=$'\t' read -r question device document words; do
	say "$question"
	record=()
	((asked > 0)) || record=(--record "$work/wire")
	"$fedattn" ask "${common[@]}" "${record[@]}" --predict 24 "$question" 2>"$work/report" || { cat "$work/report" >&2 && fail 'no answer'; }
	grep -E '^(passages|missing):' "$work/report"
	asked=$((asked + 1))
	if grep '^passages:' "$work/report" | grep -qF "[$device: $document]"; then
		right=$((right + 1))
	else
		echo "  it should have been [$device: $document], which says: $words"
	fi
	! grep -qF 'diary' "$work/report" || fail 'the refused document was given away'
done <"$here/questions.tsv"
say "The right document is among the passages in $right of $asked questions"
((asked == 8 && right >= 7)) || fail 'fewer than 7 of 8'

say 'What crossed the links in the first question'
absent=()
for file in "$work"/docs/*/*.md; do absent+=(--absent "$file"); done
"$fedattn" inspect --model "$model" --threads 1 "${absent[@]}" "$work/wire"

say 'A conversation, in the middle of which the workshop withdraws a document'
"$fedattn" serve "${common[@]}" --http 127.0.0.1:0 --predict 16 >"$work/http" 2>"$work/serve.log" &
pids+=($!)
until_in "$work/http" http
url=$(head -n 1 "$work/http")
for ((t = 0; t < 600; t++)); do
	! curl -sf "$url/health" >/dev/null || break
	sleep 0.1
done
turn() { curl -sf "$url/v1/chat/completions" -H 'Content-Type: application/json' -d "$1"; }
first='{"role":"user","content":"Where does the large torque wrench hang?"}'
turn "{\"messages\":[$first]}" >"$work/turn1" || fail 'no first answer'
grep -qF '"document":"torque-wrench"' "$work/turn1" || fail 'the torque wrench is not among the sources'
echo "with [workshop: torque-wrench]"
rm "$work/docs/workshop/torque-wrench.md"
until_in "$work/workshop.log" 'documents changed'
answer=$(sed -n 's/.*"content":\("\([^"\\]\|\\.\)*"\).*/\1/p' "$work/turn1")
turn "{\"messages\":[$first,{\"role\":\"assistant\",\"content\":$answer},{\"role\":\"user\",\"content\":\"And the spare key of the shed?\"}]}" >"$work/turn2" ||
	fail 'no second answer'
grep -qF 'took its rows back' "$work/turn2" || fail 'nobody said that rows were taken back'
grep -o -m 1 'workshop took its rows back[^"]*' "$work/turn2"
say 'What the workshop gave away, by document'
"$fedattn" receipts --by-document --config "$work/workshop"
"$fedattn" receipts --by-document --json --config "$work/workshop" | grep -F '"document":"handbook-of-the-tractor"' >"$work/over" ||
	fail 'the handbook was never asked for'
echo 'The handbook has more tokens than its budget of 220 in a question, and kept to it.'
