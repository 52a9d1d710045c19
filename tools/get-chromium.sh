#!/usr/bin/env bash
# Makes a headless Chromium available for the test that opens a drill's report and prints CHROMIUM=PATH.
#
# Looked for in this order: BARBACK_CHROMIUM; PATH (chromium-headless-shell, chromium, chromium-browser, google-chrome); the tools
# directory (BARBACK_TOOLS, else /var/cache/barback-tools for root, else ~/.cache/barback-tools). Else Debian's package, with the
# libraries that the machine lacks, is downloaded and unpacked there: nothing is installed, no right of root is needed.
# Exit 1 when there is none and CI=true or BARBACK_REQUIRE_SERVERS=1; otherwise a warning says that its test is left out.
set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "$0")/common.sh"

# The smallest package that renders pages: no windows, no sound.
readonly PACKAGE=chromium-headless-shell

TOOLS="$(tools_dir)"

main() {
    local program
    if ! program="$(find_chromium)"; then
        unpack_chromium >&2 || true
        program="$(find_chromium)" || { none; return; }
    fi
    printf 'CHROMIUM=%s\n' "$program"
}

find_chromium() {
    local candidate
    for candidate in "${BARBACK_CHROMIUM:-}" "$(command -v chromium-headless-shell || true)" "$(command -v chromium || true)" \
        "$(command -v chromium-browser || true)" "$(command -v google-chrome || true)" "$TOOLS/chromium/chromium"; do
        if [[ -n "$candidate" ]] && renders "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

# It must do what the test wants of it: an installed Chromium may lack a library.
renders() {
    local dom home
    home="$(mktemp -d)"
    chmod 777 "$home"
    dom="$(cd / && HOME="$home" unprivileged timeout 60 "$1" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage \
        --user-data-dir="$home/profile" --dump-dom 'data:text/html,<p>it renders' 2>/dev/null || true)"
    rm -rf "$home"
    [[ "$dom" == *"<p>it renders"* ]]
}

unpack_chromium() {
    command -v apt-get >/dev/null || { say "could not fetch Chromium: only Debian's package is known, and apt-get is not installed"; return 1; }
    local packages binary
    packages="$(missing_packages)" || { is_root && apt-get -q update >&2 && packages="$(missing_packages)"; } ||
        { say "could not fetch Chromium: apt-get knows no package $PACKAGE"; return 1; }
    say "fetching Debian's $PACKAGE and $(($(wc -w <<<"$packages") - 1)) packages that it needs into $TOOLS (100 MB, once)"
    new_scratch || return 1
    mkdir -p "$SCRATCH/deb" "$SCRATCH/chromium/tree"
    # shellcheck disable=SC2086
    download $packages || return 1
    rm -rf "$SCRATCH/deb"
    binary="$(cd "$SCRATCH/chromium" && find tree/usr/lib -type f -name "$PACKAGE" -perm -u+x | head -n 1)"
    [[ -n "$binary" ]] || { say "there is no program in Debian's $PACKAGE"; return 1; }
    mkdir "$SCRATCH/chromium/lib"
    # Its own lie beside it, where it looks for them.
    (cd "$SCRATCH/chromium" && find tree -name '*.so*' -not -path '*/chromium/*' -exec cp -P -t lib {} +)
    cat >"$SCRATCH/chromium/chromium" <<SCRIPT
#!/bin/sh
here="\$(dirname "\$(readlink -f "\$0")")"
LD_LIBRARY_PATH="\$here/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" exec "\$here/$binary" "\$@"
SCRIPT
    chmod 755 "$SCRATCH/chromium/chromium"
    if [[ -e "$TOOLS/chromium" ]]; then
        mv -T "$TOOLS/chromium" "$SCRATCH/unusable" || return 1
    fi
    publish "$SCRATCH/chromium" "$TOOLS/chromium"
}

# What an installation would bring, found out without one; the package itself where it is installed and does not run.
missing_packages() {
    local packages
    packages="$(apt-get -s install --no-install-recommends "$PACKAGE" 2>/dev/null | sed -n 's/^Inst \([^ ]*\).*/\1/p')"
    packages="${packages:-$(apt-cache show "$PACKAGE" 2>/dev/null | sed -n 's/^Package: //p' | head -n 1)}"
    [[ -n "$packages" ]] && printf '%s\n' "$packages"
}

# download PACKAGE...: unpacked into SCRATCH/chromium/tree. The lists of packages may be old: then they are renewed.
download() {
    (
        cd "$SCRATCH/deb"
        apt-get -q download "$@" >log 2>&1 || { is_root && apt-get -q update >log 2>&1 && apt-get -q download "$@" >log 2>&1; } ||
            { tail -n 5 log; exit 1; }
        local package
        for package in ./*.deb; do dpkg -x "$package" "$SCRATCH/chromium/tree"; done
    )
}

none() {
    servers_required && die "could not get Chromium (see above)"
    warn "could not get Chromium: the test that opens the drill's report is LEFT OUT"
}

main "$@"
