# What the tools share: where things are installed, how they talk, how an unprivileged user is played. Sourced, not run.
# shellcheck shell=bash

# The user servers run as when we are root: PostgreSQL refuses to run as root. 65534 is `nobody` everywhere.
readonly UNPRIVILEGED_ID=65534

say() { printf '%s\n' "$*" >&2; }
warn() { printf '\nWARNING: %s\n\n' "$*" >&2; }
die() { printf 'ERROR: %s\n' "$*" >&2; exit 1; }

# Missing servers are a failure in CI and wherever BARBACK_REQUIRE_SERVERS=1 asks for it; else a loud warning.
servers_required() { [[ "${CI:-}" == true || "${BARBACK_REQUIRE_SERVERS:-}" == 1 ]]; }

is_root() { [[ "$(id -u)" == 0 ]]; }

# Where downloaded servers live: readable by everybody, since root runs them as nobody.
tools_dir() {
    if [[ -n "${BARBACK_TOOLS:-}" ]]; then
        printf '%s\n' "$BARBACK_TOOLS"
    elif is_root; then
        printf '/var/cache/barback-tools\n'
    else
        printf '%s/.cache/barback-tools\n' "$HOME"
    fi
}

# Runs a command as the user that servers run as.
unprivileged() {
    if is_root; then
        setpriv --reuid="$UNPRIVILEGED_ID" --regid="$UNPRIVILEGED_ID" --clear-groups "$@"
    else
        "$@"
    fi
}

# Makes SCRATCH, an empty directory beside the final places in TOOLS, so that publishing is one rename; gone at exit.
SCRATCH=""
new_scratch() {
    [[ -z "$SCRATCH" ]] || rm -rf "$SCRATCH"
    umask 022
    if ! { mkdir -p "$TOOLS" && SCRATCH="$(mktemp -d "$TOOLS/.incoming-XXXXXX")"; }; then
        say "could not write to \"$TOOLS\""
        return 1
    fi
    trap 'rm -rf "$SCRATCH"' EXIT
}

# publish FROM TO: FROM appears under its final name whole or not at all; another process that was first wins.
publish() {
    chmod -R a+rX,u+w "$1"
    mv -T "$1" "$2" 2>/dev/null || [[ -e "$2" ]] || die "could not move \"$1\" to \"$2\""
}

# Fetches the servers that the suite needs where they are missing, and exports where they are.
find_servers() {
    local servers name path
    servers="$(tools/get-postgres.sh 15 16 18)"
    servers+=$'\n'"$(tools/get-minio.sh)"
    servers+=$'\n'"$(tools/get-barman.sh)"
    servers+=$'\n'"$(tools/get-azurite.sh)"
    servers+=$'\n'"$(tools/get-chromium.sh)"
    while IFS='=' read -r name path; do
        case "$name" in
        '') continue ;;
        MINIO) export BARBACK_MINIO="$path" ;;
        BARMAN) export BARBACK_BARMAN_BIN="$path" ;;
        AZURITE) export BARBACK_AZURITE="$path" ;;
        CHROMIUM) export BARBACK_CHROMIUM="$path" ;;
        *) export "BARBACK_PG${name}_BIN=$path" ;;
        esac
        say "$name: $path"
    done <<<"$servers"
}

# cargo_tool NAME VERSION: the path of a cargo subcommand, built into the tools directory if it is nowhere.
cargo_tool() {
    local name="$1" version="$2" candidate
    TOOLS="${TOOLS:-$(tools_dir)}"
    for candidate in "$TOOLS/$name-$version/bin/$name" "$(command -v "$name" || true)"; do
        [[ -x "$candidate" ]] && { printf '%s\n' "$candidate"; return; }
    done
    say "building $name $version into $TOOLS (some minutes, once)"
    new_scratch || die "could not install $name"
    cargo install --quiet --locked --version "$version" --root "$SCRATCH/$name" "$name" >&2
    publish "$SCRATCH/$name" "$TOOLS/$name-$version"
    printf '%s\n' "$TOOLS/$name-$version/bin/$name"
}
