#!/usr/bin/env bash
# Writes the bill of materials of the release binary, CycloneDX 1.5 as JSON, and prints its path: what is in it, in which version,
# under which licence. cargo-cyclonedx is installed into the tools directory if it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/common.sh
. tools/common.sh

readonly VERSION=0.5.9

out="${CARGO_TARGET_DIR:-target}/barback.cdx.json"
mkdir -p "$(dirname "$out")"
"$(cargo_tool cargo-cyclonedx "$VERSION")" cyclonedx --format json --spec-version 1.5 --all-features --override-filename barback.cdx >&2
mv barback.cdx.json "$out"
printf '%s\n' "$out"
