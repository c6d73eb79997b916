# shellcheck shell=sh disable=SC2154
# Gets a machine ready: Debian packages, then .venv. Sourced by tools/up and tools/test.
#
# The stamp in .venv is written last, over all that decides what .venv holds; while it matches and no
# package is missing, nothing is installed and the network is not touched. An interrupted run leaves
# the mark `unfinished`, and the next one makes .venv anew: pip takes a half-copied package for a whole one.
#
# The caller sets `root` (the project's directory) and calls `set_up up` or `set_up test`.

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "tools: $*"
    exit 1
}

# --- what the machine has ------------------------------------------------------------------------

is_recent_python() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

makes_environments() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# Sets `python` to a Python 3.11 or newer that can make a virtual environment, `bare_python` to one
# that is recent enough but cannot, `old_python` to the version of a python3 that is too old.
find_python() {
    python='' bare_python='' old_python=''
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if ! is_recent_python "$candidate"; then
            [ -n "$old_python" ] || old_python=$("$candidate" -V 2>/dev/null) || old_python=''
        elif makes_environments "$candidate"; then
            # An activated .venv is on PATH too: what counts is the Python that it was made from.
            python=$("$candidate" -c 'import sys; print(sys._base_executable or sys.executable)')
            return
        else
            [ -n "$bare_python" ] || bare_python=$candidate
        fi
    done
}

# The same choice as engine.coordination makes. A stub answers, but names no version.
java_runs() {
    java=${JAVA_HOME:-}/bin/java
    [ -n "${JAVA_HOME:-}" ] && [ -x "$java" ] || java=java
    case $("$java" -version 2>&1) in *version\ \"[0-9]*) ;; *) return 1 ;; esac
}

has_own_zookeeper() {
    [ -n "${ZOOKEEPER_HOME:-}" ] || return 1
    for jar in "$ZOOKEEPER_HOME"/lib/zookeeper-[0-9]*.jar "$ZOOKEEPER_HOME"/zookeeper-[0-9]*.jar; do
        [ -f "$jar" ] && return 0
    done
    return 1
}

has_own_postgresql() {
    for program in "${POSTGRES_BIN:-}/postgres" /usr/lib/postgresql/*/bin/postgres; do
        [ -x "$program" ] && return 0
    done
    return 1
}

# A package counts as there when it is installed, or when what it is for works without it.
is_satisfied() {
    case $1 in
        python3-venv) [ -n "$python" ] && return 0 ;;
        default-jre-headless) java_runs && return 0 ;;
        lib*-java) has_own_zookeeper && return 0 ;;
        postgresql) has_own_postgresql && return 0 ;;
    esac
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Sets `missing` from the subset of bindep's format that bindep.txt uses: `package [platform:dpkg]`, and
# `package [platform:dpkg test]` for what only `set_up test` needs.
find_missing_packages() {
    missing=''
    while read -r package selector rest || [ -n "$package" ]; do
        case "$package $selector $rest" in
            ' '* | '#'*) continue ;;
            *' [platform:dpkg] ') ;;
            *' [platform:dpkg test]') [ "$purpose" = test ] || continue ;;
            *) fail "bindep.txt: only lines of the form 'package [platform:dpkg]' or 'package [platform:dpkg test]' are understood, not '$package $selector $rest'" ;;
        esac
        is_satisfied "$package" || missing="$missing $package"
    done <"$root/bindep.txt"
    missing=${missing# }
}

# --- packages ------------------------------------------------------------------------------------

# Sets `as_root` to what runs a command with root's rights; fails with the exact line when nothing does.
find_root() {
    as_root=''
    [ "$(id -u)" = 0 ] && return
    if command -v sudo >/dev/null 2>&1; then
        if sudo -n true 2>/dev/null; then
            as_root='sudo -n'
            return
        elif [ -t 0 ]; then
            as_root=sudo
            return
        fi
    fi
    say "These packages are missing, and installing them takes root's rights. Run as root:"
    say ''
    say "    $install_line"
    say ''
    say 'then this script again.'
    exit 1
}

# Debian's package makes a server that listens on port 5432, unless it is told not to before it is installed.
want_no_server() {
    case " $missing " in *' postgresql '*) ;; *) return ;; esac
    [ ! -e /etc/postgresql-common/createcluster.conf ] || return 0
    # shellcheck disable=SC2086,SC2016  # as_root is a list of words; the inner shell expands $1
    $as_root sh -c 'mkdir -p "$1" && echo "create_main_cluster = false" >"$1/createcluster.conf"' \
        sh /etc/postgresql-common || fail "/etc/postgresql-common could not be written"
}

install_packages() {
    install_line="apt-get update && apt-get install --no-install-recommends -y $missing"
    find_root
    say "Installing the Debian packages that bindep.txt names and this machine lacks:"
    say "    $missing"
    want_no_server
    # shellcheck disable=SC2086  # as_root and missing are lists of words
    {
        $as_root apt-get update -q >&2 ||
            say "apt-get update failed; trying with the package lists as they are."
        $as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get -o DPkg::Lock::Timeout=300 install --no-install-recommends -y -q $missing \
            >&2 </dev/null ||
            fail "the packages could not be installed (apt-get's message is above). The line was: $install_line"
    }
    find_python
    find_missing_packages
    [ -z "$missing" ] || fail "still missing after apt-get install: $missing"
}

without_dpkg() {
    has_own_zookeeper && return
    say "This machine has no dpkg, so nothing is installed for you. Needed are:"
    say "  - Python 3.11 or newer with venv;"
    say "  - a Java runtime, version 11 or newer, as 'java' on PATH or in JAVA_HOME;"
    say "  - ZooKeeper 3.6 or newer: unpack a binary release (apache-zookeeper-<version>-bin.tar.gz from"
    say "    https://zookeeper.apache.org/releases.html) and set ZOOKEEPER_HOME to its directory."
    [ -n "${ZOOKEEPER_HOME:-}" ] || fail "ZOOKEEPER_HOME is not set"
    fail "ZOOKEEPER_HOME=$ZOOKEEPER_HOME holds no lib/zookeeper-<version>.jar"
}

require_python() {
    [ -n "$python" ] && return
    if [ -n "$bare_python" ]; then
        version=$("$bare_python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        fail "$bare_python cannot make virtual environments (ensurepip is missing): install the package $version-venv"
    fi
    fail "Python 3.11 or newer is needed${old_python:+ (here: $old_python)}: install the packages python3.11 and python3.11-venv, or those of a later version"
}

require_java() {
    java_runs && return
    found=$(command -v "$java") || fail "no Java was found: install the package default-jre-headless, or set JAVA_HOME"
    fail "$found is not a working Java ('$java -version' names none): install the package default-jre-headless; if it is installed, see 'update-alternatives --config java' and JAVA_HOME"
}

prepare_machine() {
    purpose=$1
    find_python
    if command -v dpkg-query >/dev/null 2>&1; then
        # The distribution's own Python is too old: no package named in bindep.txt would help.
        [ -n "$python$bare_python" ] || [ -z "$old_python" ] || require_python
        find_missing_packages
        [ -z "$missing" ] || install_packages
    else
        without_dpkg
        [ "$purpose" = up ] || has_own_postgresql ||
            fail "the tests need PostgreSQL 13 or newer: install it and set POSTGRES_BIN to the directory of its program postgres"
    fi
    require_python
    require_java
}

# --- the virtual environment ---------------------------------------------------------------------

venv_works() { "$venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# What .venv was made from; it cannot be moved, so its place counts too.
fingerprint() {
    {
        cat "$root/bindep.txt" "$root/setup.cfg" "$root/constraints.txt"
        "$venv/bin/python" -c 'import sys; print(sys.version)' 2>/dev/null || :
        printf '%s\n' "$root"
    } | cksum
}

# True if .venv holds what `up` (or `test`, which is more) needs.
is_stamped() {
    [ -f "$venv/stamp.$1" ] && [ ! -e "$venv/unfinished" ] && [ -x "$venv/bin/engine" ] && venv_works &&
        [ "$(cat "$venv/stamp.$1")" = "$(fingerprint)" ]
}

# Keeps a finished .venv whose Python works (sets `kept`), since only some packages will differ.
make_venv() {
    kept=''
    if [ ! -e "$venv/unfinished" ] && venv_works; then
        kept=yes
        : >"$venv/unfinished"
    else
        rm -rf "$venv"
        mkdir -p "$venv"
        : >"$venv/unfinished"
        "$python" -m venv "$venv" >"$venv/setup.log" 2>&1 || venv_failed "$python -m venv failed"
    fi
}

install_project() {
    "$venv/bin/python" -m pip --disable-pip-version-check install --no-input -c "$root/constraints.txt" \
        -e "$root$extra" >>"$venv/setup.log" 2>&1
}

venv_failed() {
    say "--- the end of $venv/setup.log"
    tail -n 20 "$venv/setup.log" >&2
    say "---"
    fail "$1; the whole log is in $venv/setup.log. Run the same command again once the cause is gone"
}

# Sets `extra`; true if the virtual environment is ready for $1 (up or test).
is_ready() {
    extra='[test]'
    is_stamped test && return
    [ "$1" = up ] || return 1
    extra=''
    is_stamped up
}

prepare_venv() {
    venv=$root/.venv
    is_ready "$1" && return
    # Two first runs at once: the second waits here, then finds the work done.
    exec 9<"$root/setup.cfg"
    ! command -v flock >/dev/null 2>&1 || flock 9
    if ! is_ready "$1"; then
        say "Installing the project into $venv (a minute or two, once)."
        make_venv
        if ! install_project; then
            # pip undoes what it could not finish: what was there before still works.
            [ -z "$kept" ] || rm -f "$venv/unfinished"
            venv_failed "pip could not install the project"
        fi
        rm -f "$venv/stamp.up" "$venv/stamp.test"
        fingerprint >"$venv/stamp.$1"
        rm -f "$venv/unfinished"
    fi
    exec 9<&-
}

set_up() {
    prepare_machine "$1"
    prepare_venv "$1"
}
