#!/usr/bin/env bash
# The long run: thousands of faults, kills and failing disks drawn from seeds, and a busy cluster on a store that misbehaves.
#
# BARBACK_TORTURE_SEED is the first seed (1), BARBACK_TORTURE_FAULTS, BARBACK_TORTURE_DISKS, BARBACK_TORTURE_KILLS and
# BARBACK_TORTURE_SEGMENTS say how many (1000, 200, 500, 5000). What is met and done is counted at the end of each part; a
# failure names its seed, and that seed with a count of 1 plays it again. Some 50 minutes on 2 cores.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/common.sh
. tools/common.sh

export BARBACK_REQUIRE_SERVERS=1
: "${BARBACK_TORTURE_FAULTS:=1000}" "${BARBACK_TORTURE_DISKS:=200}" "${BARBACK_TORTURE_KILLS:=500}"
: "${BARBACK_TORTURE_SEGMENTS:=5000}"
export BARBACK_TORTURE_FAULTS BARBACK_TORTURE_DISKS BARBACK_TORTURE_KILLS BARBACK_TORTURE_SEGMENTS
find_servers
# A panic of a scenario says enough by itself.
export RUST_BACKTRACE=0
exec cargo test --locked --test suite -- torture:: --nocapture --test-threads 1
