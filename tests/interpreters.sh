#!/usr/bin/env bash
# Fetches and builds CPythons for the tests to read, and lists those that start.
#
#   tests/interpreters.sh [OPTION...] [DIR [GROUP...]]
#
#   --budget SECONDS   once this time is spent, what is left is skipped (default 1500)
#   --floor N          exit 1 when fewer than N interpreters start
#   --require A,B      exit 1 unless each version starts; `3.14` is any build of it, `3.13t` a
#                      free-threaded one
#
# DIR is a cache outside the repository: by default $HEAPSONDE_INTERPRETERS, or
# ~/.cache/heapsonde/interpreters. GROUPs narrow the work; without them $HEAPSONDE_GROUPS counts,
# else all groups, in this order:
#
#   local        pyenv's versions from 3.8 on, and /usr/bin/python3
#   sid          Debian's 3.13, 3.14, 3.15 of today: stripped, in a chroot, and through its ld.so
#   trixie       3.13 of Debian 13
#   forky        the versions of Debian's next release
#   numpy        numpy, pinned, in a folder per version, for the targets that can import it
#   web          Flask and Tornado, in a folder per version
#   packages     the packages that fixtures/packages pins (Django, pandas, lxml, ...), in a folder per version
#   dbg          sid's debug builds, with the DWARF and the headers of the release builds
#   pytest       pytest, for the recipe in fixtures/pytest
#   arrow        DuckDB, pyarrow and polars, pinned, for the tests that open snapshots
#   prometheus   promtool and Prometheus of this Debian, for the tests of `watch`
#   mallocs      jemalloc, tcmalloc and mimalloc of this Debian, to be preloaded
#   bullseye     3.9 of Debian 11 (leaves the mirrors one day: then it is skipped)
#   3.13t        free-threaded, from Debian's source
#   static       libpython inside the executable (PIE, with symbols), and a stripped copy of it
#   pydebug      --with-pydebug, from the same source
#   musl         the same source against musl; musl-static has neither ld.so nor symbols, once
#   musl-static  stripped
#   3.14t 3.15t  free-threaded, where the mirror has the sources
#
# What is left in DIR:
#
#   LIST      written anew by each run, one line per interpreter that started in this run:
#             name TAB version TAB kind TAB pythonpath TAB command
#             kind: default, free-threaded, debug, static, static-stripped, musl, musl-static,
#             chroot, loader. pythonpath: a folder with numpy as the target sees it, or `-`.
#             command: words, separated by blanks, to be followed by `-c SOURCE ARGS`. It becomes
#             the interpreter by exec: the process that was started is the target.
#   SKIPPED   name TAB reason, for what this run did not get
#   TIMES     name TAB seconds TAB outcome, for each step of this run
#   log/      what each step printed
#
# Each step fills one folder and stamps it with a digest of its recipe: a second run does only what
# is missing. A step that fails is reported and the next one goes on: without --floor and --require
# the exit code is 0. Nothing of the system is changed: apt works on a state of its own inside DIR,
# with the mirror that the machine's own configuration names (HEAPSONDE_DEBIAN_MIRROR overrides
# it). Chroots need root, or a kernel that lets `unshare --user` be it.
set -euo pipefail
export LC_ALL=C

all_groups=(local sid trixie forky numpy web packages arrow pytest dbg prometheus mallocs bullseye 3.13t static pydebug musl musl-static 3.14t 3.15t)
self=$(readlink -f "${BASH_SOURCE[0]}")

# ---- fetching --------------------------------------------------------------------------------

need() { # tool=package...: fails, and names every package that is missing
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    ((${#missing[@]} == 0)) || { echo "error: missing tools: apt-get install ${missing[*]}"; return 1; }
}

host_codename() {
    # shellcheck source=/dev/null
    (. /etc/os-release && echo "${VERSION_CODENAME:-}")
}

# The mirror that this machine installs its own Debian from.
debian_mirror() {
    local codename uri
    codename=$(host_codename)
    # shellcheck disable=SC2016 # apt fills these in
    uri=${HEAPSONDE_DEBIAN_MIRROR:-$(apt-get indextargets 'Created-By: Packages' \
        --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' |
        awk -v release="$codename" '$1 == release && $2 == "main" { print $3; exit }')}
    [[ -n $uri && -e /etc/debian_version && -e /usr/share/keyrings/debian-archive-keyring.gpg ]] || {
        echo "error: no Debian mirror is configured here (HEAPSONDE_DEBIAN_MIRROR names one)"
        return 1
    }
    echo "$uri"
}

# Makes an apt of its own for a suite: lists, cache and an empty dpkg status, so that the closure
# of a package is complete. The system's fetch settings are kept, its hooks are not.
private_apt() { # SUITE TYPE(deb|deb-src): exports APT_CONFIG, updates lists older than a day
    need apt-get=apt dpkg=dpkg
    local root=$dir/apt/$1-$2 mirror
    mirror=$(debian_mirror) || { echo "$mirror"; return 1; }
    mkdir -p "$root"/{lists,cache/archives/partial,none,state}
    : >"$root/status"
    echo "$2 [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"$root/sources.list"
    apt-config dump | grep '^Acquire::' |
        grep -vE '^Acquire::(IndexTargets|Changelogs|CompressionTypes)' >"$root/apt.conf" || :
    cat >>"$root/apt.conf" <<-CONF
	Dir::Etc::main "/dev/null";
	Dir::Etc::parts "$root/none";
	Dir::Etc::SourceList "$root/sources.list";
	Dir::Etc::SourceParts "$root/none";
	Dir::Etc::Preferences "/dev/null";
	Dir::Etc::PreferencesParts "$root/none";
	Dir::State "$root/state";
	Dir::State::Lists "$root/lists";
	Dir::State::status "$root/status";
	Dir::Cache "$root/cache";
	Dir::Cache::pkgcache "";
	Dir::Cache::srcpkgcache "";
	Dir::Log "$root";
	APT::Architecture "amd64";
	APT::Architectures { "amd64"; };
	APT::Sandbox::User "$(id -un)";
	Acquire::Languages "none";
	Acquire::Retries "3";
	Debug::NoLocking "1";
	CONF
    export APT_CONFIG=$root/apt.conf
    if [[ -z $(find "$root/updated" -mmin -1440 2>/dev/null) ]]; then
        apt-get -q update
        # `update` is content when a suite is gone: without an index there is nothing to install.
        compgen -G "$root/lists/*_InRelease" >/dev/null || { echo "error: the mirror has no $1"; return 1; }
        touch "$root/updated"
    fi
}

# Unpacks packages with all that they depend on into a folder that serves as a chroot.
debian_root() { # FOLDER SUITE PACKAGE...: `PACKAGE?` is taken where the suite has it
    local root=$1 debs=$dir/apt/$2-deb/cache/archives deb folder package wanted=()
    private_apt "$2" deb
    for package in "${@:3}"; do
        if [[ $package != *\? ]] || apt-cache -q show "${package%\?}" >/dev/null 2>&1; then
            wanted+=("${package%\?}")
        fi
    done
    rm -f "$debs"/*.deb
    apt-get -q -y --no-install-recommends --download-only install "${wanted[@]}"
    for folder in bin sbin lib lib64; do # as the base system lays them out
        mkdir -p "$root/usr/$folder"
        ln -s "usr/$folder" "$root/$folder"
    done
    mkdir -p "$root"/{dev,opt,proc,root,tmp}
    chmod 1777 "$root/tmp"
    for deb in "$debs"/*.deb; do
        # Through tar, since dpkg would replace the links above by folders.
        dpkg-deb --fsys-tarfile "$deb" | tar -C "$root" -x --keep-directory-symlink --no-same-owner \
            --exclude='./usr/share/doc' --exclude='./usr/share/man' --exclude='./usr/share/locale'
    done
    rm -f "$debs"/*.deb
    mknod -m 666 "$root/dev/null" c 1 3 2>/dev/null || :
}

fetch_sid() { debian_root "$1" sid python3.13 python3.14 python3.15 libstdc++6; }
fetch_trixie() { debian_root "$1" trixie python3.13 libstdc++6; }
fetch_forky() { debian_root "$1" forky python3.13\? python3.14\? python3.15\? libstdc++6; }
fetch_bullseye() { debian_root "$1" bullseye python3.9 libstdc++6; }

fetch_prometheus() { # FOLDER: two programs that need nothing but libc
    private_apt "$(host_codename)" deb
    cd "$1"
    apt-get -q download prometheus
    dpkg-deb --fsys-tarfile ./*.deb | tar -x --strip-components=3 ./usr/bin
    rm ./*.deb
}

fetch_mallocs() { # FOLDER: libraries that need nothing but libstdc++
    private_apt "$(host_codename)" deb
    cd "$1"
    apt-get -q download libjemalloc2 libtcmalloc-minimal4 libmimalloc2.0
    local package
    for package in ./*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -x --wildcards --strip-components=4 './usr/lib/x86_64-linux-gnu/lib*'
    done
    rm ./*.deb
}

fetch_dbg() {
    debian_root "$1" sid {libpython3.13,libpython3.14,libpython3.15}-dev python3.{13,14,15}-dbg libstdc++6
    find "$1" -name 'libpython*.a' -delete # 80 MB each, and nobody links here
}

# ---- building --------------------------------------------------------------------------------

fetch_source() { # FOLDER SUITE VERSION
    need tar=tar xz=xz-utils
    private_apt "$2" deb-src
    cd "$1"
    apt-get -q source --download-only --tar-only "python$3"
    tar --strip-components=1 -xJf python*.orig.tar.xz
    rm python*.orig.tar.xz
}

# CPython is run where it was built: installing would only add minutes of compiling its library.
# What the link leaves behind is not needed for that, and is half of the size.
# At -O0, which takes a third of the time of -O1: no layout depends on it. Builds without the lock are read by most
# tests, each minor version's only one, and run these two to three times as fast at -O1.
build() { # FOLDER SOURCE CONFIGURE-ARGUMENT...
    need gcc=build-essential make=build-essential strip=binutils pkg-config=pkg-config
    cd "$1"
    "$2/configure" -q --disable-test-modules --with-ensurepip=no OPT="-g ${optimisation:--O0}" "${@:3}"
    make -s -j"$(nproc)"
    find . \( -name '*.o' -o -name '*.a' -o -name _freeze_module -o -name _bootstrap_python \) -delete
}

# One configure cache serves the builds with gcc and no flags of their own.
build_free_threaded() { optimisation=-O1 build "$1" "$2" --cache-file="$2/config.cache" --disable-gil; }
build_pydebug() { build "$1" "$2" --cache-file="$2/config.cache" --with-pydebug; }

build_static() { # FOLDER SOURCE: a default build links libpython into the executable
    build "$1" "$2" --cache-file="$2/config.cache"
    strip -o python-stripped python # beside pybuilddir.txt, by which it finds its library
}

# musl of this Debian, with its compiler wrapper moved to where it was unpacked.
fetch_musl() { # FOLDER
    need gcc=build-essential
    local root=$1/root triplet=x86_64-linux-musl deb name
    private_apt "$(host_codename)" deb
    cd "$1"
    apt-get -q download musl musl-dev musl-tools
    for deb in *.deb; do dpkg-deb -x "$deb" root; done
    rm ./*.deb
    # Beside libc.a: else the link takes that one, and no module can be loaded.
    cp "root/lib/$triplet/libc.so" "root/usr/lib/$triplet/libc.so"
    for name in linux asm-generic; do ln -s "/usr/include/$name" "root/usr/include/$triplet/$name"; done
    ln -s /usr/include/x86_64-linux-gnu/asm "root/usr/include/$triplet/asm"
    sed -E -e "s#/usr/(include|lib)/$triplet#$root&#g" \
        -e "s#/lib/ld-musl-x86_64.so.1#$root/usr/lib/$triplet/libc.so#" \
        "root/usr/lib/$triplet/musl-gcc.specs" >musl-gcc.specs
    # configure compares the triplet that the compiler names with the one that it finds.
    cat >musl-gcc <<-WRAPPER
	#!/bin/sh
	case "\$*" in *--print-multiarch*) echo $triplet; exit ;; esac
	exec gcc "\$@" -specs "$1/musl-gcc.specs"
	WRAPPER
    chmod +x musl-gcc
}

build_musl() { # FOLDER SOURCE TOOLS
    export CC=$3/musl-gcc PKG_CONFIG=/bin/false
    build "$1" "$2"
}

build_musl_static() { # FOLDER SOURCE TOOLS
    export CC=$3/musl-gcc PKG_CONFIG=/bin/false
    build "$1" "$2" LDFLAGS=-static LINKFORSHARED=" " MODULE_BUILDTYPE=static py_cv_module__ctypes=n/a
    strip -o python-stripped python
}

# ---- numpy -----------------------------------------------------------------------------------

# Wheels for a version, without running that version: pip only unpacks them.
install_wheels() { # FOLDER VERSION ARGUMENT...
    local pip python platform args=()
    for python in $(pyenv_pythons | sort -V -r) "$(command -v python3 || :)"; do
        "$python" -m pip --version >/dev/null 2>&1 && pip=$python && break
    done
    [[ -n ${pip:-} ]] || { echo "error: no python with pip: apt-get install python3-pip"; return 1; }
    for platform in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux2010 manylinux1; do
        args+=(--platform "${platform}_x86_64")
    done
    "$pip" -m pip install --disable-pip-version-check --quiet --no-compile --target "$1" --only-binary :all: \
        --implementation cp --python-version "$2" "${args[@]}" "${@:3}"
}

# The pins are chosen per version; old pips would compare them with the version that runs pip.
fetch_numpy() { # FOLDER TAG(3.12 or 3.13t) PIN
    install_wheels "$1" "${2%t}" --no-deps --ignore-requires-python --abi "cp${2/./}" "numpy==$3"
}

# The numpy of each version. 3.12 is the oldest that the newest numpy supports.
numpy_pins=(3.12=2.5.5 3.14=2.5.5 3.15=2.5.5 3.13=2.5.5 3.13t=2.4.6 3.11=2.4.6 3.10=2.2.6 3.9=2.0.2 3.8=1.24.4)

# Web servers for the tests that ask who keeps their requests; the targets import them by PYTHONPATH.
fetch_web() { # FOLDER VERSION
    install_wheels "$1" "$2" "flask==3.1.*" "tornado==6.*"
}

fetch_pytest() { # FOLDER: Python code alone, for any version from 3.11 on
    install_wheels "$1" 3.12 "pytest==9.*"
}

fetch_arrow() { # FOLDER: pandas and numpy are in packages-3.12
    install_wheels "$1" 3.12 --no-deps "duckdb==2.0.1" "pyarrow==26.0.1" "polars==2.1.0" "polars-runtime-32==2.1.0"
}

web_versions=(3.11 3.12 3.13)

# What the programs of fixtures/programs/packages.py import: all that they need is pinned, their own needs included.
fetch_packages() { # FOLDER VERSION PINS DIGEST: the digest of the pins is part of the recipe
    install_wheels "$1" "$2" --no-deps --ignore-requires-python --requirement "$(pins_file "$3")"
    # Tests and headers are half of the size.
    find "$1" -type d \( -name tests -o -name include \) -prune -exec rm -rf {} +
}

pins_file() { echo "$(dirname "$self")/../fixtures/packages/$1.txt"; }

package_pins=(3.9=3.9 3.12=3.12 3.13=3.12 3.14=3.12)

# ---- steps -----------------------------------------------------------------------------------

skip() { # NAME REASON
    printf '%s\t%s\n' "$1" "$2" >>"$dir/SKIPPED.new"
    echo "skipped: $1: $2" >&2
}

took() { # NAME START OUTCOME
    printf '%s\t%s\t%s\n' "$1" $((SECONDS - $2)) "$3" >>"$dir/TIMES.new"
    echo "$1: $3, $((SECONDS - $2)) s" >&2
}

first_error() { # LOG
    grep -m1 -E '^E: |[Ee]rror|ERROR|No such file|not found|Killed' "$1" || tail -n 1 "$1"
}

declare -A failed=()

# Runs `FUNCTION DIR/NAME ARGUMENT...` once, in a shell of its own so that it can be timed out.
step() { # NAME TIMEOUT FUNCTION ARGUMENT...: succeeds when the folder is there
    local name=$1 limit=$2 folder=$dir/$1 log start=$SECONDS recipe code=0
    log=$dir/log/${name//\//-}.log
    shift 2
    [[ -z ${failed[$name]:-} ]] || return 1 # and has been reported
    recipe=$({ declare -f "$1"; echo "$@"; } | sha256sum)
    if [[ $(cat "$folder/.recipe" 2>/dev/null) == "$recipe" ]]; then
        took "$name" "$start" cached
        return 0
    fi
    if ((budget - SECONDS < limit)); then limit=$((budget - SECONDS)); fi
    if ((limit <= 0)); then
        skip "$name" "the budget of $budget s is spent"
        failed[$name]=1
        return 1
    fi
    rm -rf "$folder"
    mkdir -p "$folder"
    timeout --kill-after=10 "$limit" bash "$self" --step "$dir" "$1" "$folder" "${@:2}" \
        >"$log" 2>&1 </dev/null &
    running=$!
    wait "$running" || code=$?
    running=
    if ((code == 0)); then
        echo "$recipe" >"$folder/.recipe"
        took "$name" "$start" "done"
        return 0
    fi
    rm -rf "$folder"
    failed[$name]=1
    took "$name" "$start" failed
    if ((code == 124)); then
        skip "$name" "took longer than $limit s"
    else
        skip "$name" "$(first_error "$log" | tr '\t' ' ')"
    fi
    return 1
}

# ---- listing ---------------------------------------------------------------------------------

pyenv_pythons() { # the real binaries, not the shims
    local python
    command -v pyenv >/dev/null || return 0
    for python in "$(pyenv root)"/versions/3.*/bin/python3; do
        [[ ! -x $python ]] || readlink -f "$python"
    done
}

# What a target says of itself; the imports show that its library is whole.
probe='import sys, json, math, socket, threading
free = "free-threading" in sys.version
print("probe", sys.version.split()[0].rstrip("+"),
      "free-threaded" if free else "debug" if hasattr(sys, "gettotalrefcount") else "default",
      file=sys.stderr)'

# Starts a candidate and writes its line; numpy is offered only when the target imports it.
try() { # ORDER NAME KIND SITE COMMAND...: KIND may be `auto`; SITE is a folder as the target sees it
    local order=$1 name=$2 kind=$3 site=$4 said version build works recipe
    shift 4
    if ! said=$(timeout 60 "$@" -c "$probe" 2>&1 >/dev/null </dev/null) || [[ $said != *probe\ * ]]; then
        skip "$name" "does not start: $(tail -n 1 <<<"$said" | tr '\t' ' ')"
        return 0
    fi
    read -r _ version build <<<"$(grep -m1 '^probe ' <<<"$said")"
    [[ $kind != auto ]] || kind=$build
    case $kind:$build in
        free-threaded:free-threaded | debug:debug) ;;
        free-threaded:* | debug:* | *:free-threaded | *:debug)
            skip "$name" "is a $build build where a $kind one was expected"
            return 0
            ;;
    esac
    if [[ $site != - ]]; then # an import that worked is remembered: it takes up to two seconds
        works=$dir/imports/$name
        recipe=$(cat "$dir"/numpy-*/.recipe <(echo "$version $site $*"))
        if [[ $(cat "$works" 2>/dev/null) != "$recipe" ]]; then
            if PYTHONPATH=$site timeout 120 "$@" -c 'import numpy' >/dev/null 2>&1 </dev/null; then
                echo "$recipe" >"$works"
            else
                site=-
            fi
        fi
    fi
    printf '%s\t%s\t%s\t%s\t%s\n' "$name" "$version" "$kind" "$site" "$*" >"$dir/try/$order"
}

tries=0
candidate() { # NAME KIND SITE COMMAND...: tries it beside the others
    while (($(jobs -rp | wc -l) >= 4)); do wait -n || :; done
    tries=$((tries + 1))
    try "$(printf %03d "$tries")" "$@" &
}

site_for() { # TAG: the folder with numpy for it, or -
    if [[ -e $dir/numpy-$1/.recipe ]]; then echo "$dir/numpy-$1"; else echo -; fi
}

# How to enter a chroot here: sets the array `enter`; fails where it cannot be done.
enter_root() {
    if ((EUID == 0)); then
        enter=(chroot "$1")
    else
        enter=(unshare --user --map-root-user "--root=$1")
    fi
    "${enter[@]}" /usr/bin/true 2>/dev/null || [[ $("${enter[@]}" /nonexistent 2>&1) == *"No such file"* ]]
}

candidate_root() { # NAME: each interpreter of a Debian root
    local root=$dir/$1 python version site copy kind enter=()
    [[ -e $root/.recipe ]] || return 0
    if ! enter_root "$root"; then
        skip "$1" "chroot needs root, or user namespaces"
        return 0
    fi
    for python in "$root"/usr/bin/python3.*; do
        version=$(basename "$python")
        version=${version#python}
        kind=chroot
        case $1:$version in
            *-dbg:3.*d) kind=debug ;;
            *-dbg:* | *:*-* | *:*d) continue ;;
        esac
        site=$(site_for "${version%d}")
        if [[ $site != - ]]; then # hard links: no copy
            copy=/opt/site-${version%d}
            if ! cmp -s "$site/.recipe" "$root$copy/.recipe"; then
                rm -rf "$root$copy" "$root$copy.new"
                cp -al "$site" "$root$copy.new"
                mv "$root$copy.new" "$root$copy"
            fi
            site=$copy
        fi
        candidate "$1-$version" "$kind" "$site" "${enter[@]}" "/usr/bin/python$version"
    done
}

candidate_loader() { # NAME: the same interpreters without a chroot, through their ld.so
    local root=$dir/$1 python version
    [[ -e $root/.recipe ]] || return 0
    for python in "$root"/usr/bin/python3.??; do
        version=$(basename "$python")
        version=${version#python}
        candidate "$1-$version-loader" loader "$(site_for "$version")" \
            env "PYTHONHOME=$root/usr" "$root/usr/lib64/ld-linux-x86-64.so.2" \
            --library-path "$root/usr/lib/x86_64-linux-gnu" "$python"
    done
}

candidate_local() {
    local python version found=0
    for python in $(pyenv_pythons | sort -V) /usr/bin/python3; do
        [[ -x $python ]] || continue
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2] + "t" * ("free-threading" in sys.version))') || continue
        [[ ${version#3.} != [0-7] ]] || continue
        found=$((found + 1))
        if [[ $python == /usr/bin/python3 ]]; then
            candidate "system-$version" auto "$(site_for "$version")" "$(readlink -f "$python")"
        else
            candidate "pyenv-$version" auto "$(site_for "$version")" "$python"
        fi
    done
    ((found)) || skip local "neither pyenv nor /usr/bin/python3 has a version from 3.8 on"
}

candidate_build() { # STEP KIND SITE EXECUTABLE
    [[ -e $dir/$1/.recipe ]] || return 0
    local name=$1
    if [[ $name != *t || $name == static ]]; then name=$name-3.13; fi
    candidate "$name${4#python}" "$2" "$3" "$dir/$1/$4"
}

# ---- the run ---------------------------------------------------------------------------------

fetch_group() { # GROUP: a failed step has been reported by then
    case $1 in
        local) ;;
        sid | trixie | forky | bullseye) step "$1" 300 "fetch_$1" || : ;;
        dbg) step sid-dbg 400 fetch_dbg || : ;;
        arrow) step "$1" 300 fetch_arrow || : ;;
        pytest) step "$1" 60 fetch_pytest || : ;;
        prometheus) step "$1" 120 fetch_prometheus || : ;;
        mallocs) step "$1" 120 fetch_mallocs || : ;;
        numpy)
            local pair
            for pair in "${numpy_pins[@]}"; do
                step "numpy-${pair%=*}" 120 fetch_numpy "${pair%=*}" "${pair#*=}" || :
            done
            ;;
        web)
            local version
            for version in "${web_versions[@]}"; do
                step "web-$version" 120 fetch_web "$version" || :
            done
            ;;
        packages)
            local pair pins
            for pair in "${package_pins[@]}"; do
                pins=${pair#*=}
                step "packages-${pair%=*}" 300 fetch_packages "${pair%=*}" "$pins" "$(sha256sum <"$(pins_file "$pins")")" || :
            done
            ;;
        3.13t)
            if step source-3.13 120 fetch_source trixie 3.13; then
                step "$1" 600 build_free_threaded "$dir/source-3.13" || :
            fi
            ;;
        3.14t | 3.15t)
            if step "source-${1%t}" 120 fetch_source sid "${1%t}"; then
                step "$1" 600 build_free_threaded "$dir/source-${1%t}" || :
            fi
            ;;
        static | pydebug)
            if step source-3.13 120 fetch_source trixie 3.13; then
                step "$1" 600 "build_$1" "$dir/source-3.13" || :
            fi
            ;;
        musl | musl-static)
            if step source-3.13 120 fetch_source trixie 3.13 && step musl-tools 60 fetch_musl; then
                step "$1" 600 "build_${1/-/_}" "$dir/source-3.13" "$dir/musl-tools" || :
            fi
            ;;
        *) skip "$1" "there is no such group" ;;
    esac
}

is_build() { # GROUP: made from source
    case $1 in
        3.*t | static | pydebug | musl | musl-static) ;;
        *) return 1 ;;
    esac
}

download_groups() { # GROUP...: those that are not built
    local group
    trap 'kill $running 2>/dev/null || :' EXIT
    trap 'exit 130' INT TERM
    for group in "$@"; do
        is_build "$group" || fetch_group "$group"
    done
}

list_group() { # GROUP
    case $1 in
        local) candidate_local ;;
        sid) candidate_root sid && candidate_loader sid ;;
        trixie | forky | bullseye) candidate_root "$1" ;;
        dbg) candidate_root sid-dbg ;;
        3.*t) candidate_build "$1" free-threaded "$(site_for "$1")" python ;;
        static)
            candidate_build static static "$(site_for 3.13)" python
            candidate_build static static-stripped "$(site_for 3.13)" python-stripped
            ;;
        pydebug) candidate_build pydebug debug "$(site_for 3.13)" python ;;
        musl) candidate_build musl musl - python ;;
        musl-static)
            candidate_build musl-static musl-static - python
            candidate_build musl-static musl-static - python-stripped
            ;;
    esac
}

missing_of() { # FLOOR VERSIONS: prints what the list lacks; fails when it lacks something
    local lacking=0 found version
    found=$(wc -l <"$dir/LIST")
    if ((found < $1)); then
        echo "missing: $found interpreters start, $1 are needed" >&2
        lacking=1
    fi
    for version in ${2//,/ }; do
        awk -F'\t' -v want="$version" '
            BEGIN { free = sub(/t$/, "", want) }
            index($2 ".", want ".") == 1 && (!free || $3 == "free-threaded") { ok = 1 }
            END { exit !ok }' "$dir/LIST" && continue
        echo "missing: no CPython $version starts" >&2
        lacking=1
    done
    return "$lacking"
}

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$self"; }

main() {
    local floor=0 require='' groups=() group
    budget=1500
    dir=
    while (($#)); do
        case $1 in
            --budget) budget=$2 && shift ;;
            --floor) floor=$2 && shift ;;
            --require) require=$2 && shift ;;
            -h | --help) usage && return 0 ;;
            -*) echo "interpreters.sh: unknown option $1" >&2 && return 2 ;;
            *) if [[ -z $dir ]]; then dir=$1; else groups+=("$1"); fi ;;
        esac
        shift
    done
    dir=${dir:-${HEAPSONDE_INTERPRETERS:-$HOME/.cache/heapsonde/interpreters}}
    if ((${#groups[@]} == 0)); then read -r -a groups <<<"${HEAPSONDE_GROUPS:-${all_groups[*]}}"; fi
    mkdir -p "$dir/log" "$dir/imports"
    dir=$(readlink -f "$dir")
    [[ $dir != *[[:space:]]* ]] || { echo "interpreters.sh: a blank in $dir would split commands" >&2; return 2; }
    exec 9>"$dir/.lock"
    flock 9
    running=
    downloader=
    trap 'kill $running $downloader 2>/dev/null || :' EXIT
    trap 'exit 130' INT TERM
    : >"$dir/SKIPPED.new"
    : >"$dir/TIMES.new"
    rm -rf "$dir/try"
    mkdir "$dir/try"

    # Downloads wait for the mirror and builds for the processor: both at once. They share no folder.
    local start
    download_groups "${groups[@]}" &
    downloader=$!
    for group in "${groups[@]}"; do
        if is_build "$group"; then fetch_group "$group"; fi
    done
    wait "$downloader" || :
    downloader=
    start=$SECONDS
    for group in "${groups[@]}"; do list_group "$group"; done
    wait
    took start-all "$start" "done"
    find "$dir/try" -type f | sort | xargs -r cat >"$dir/LIST.new"
    rm -rf "$dir/try"
    local file
    for file in LIST SKIPPED TIMES; do mv "$dir/$file.new" "$dir/$file"; done
    echo "$(wc -l <"$dir/LIST") interpreters in $dir/LIST, $SECONDS s" >&2
    missing_of "$floor" "$require"
}

if [[ ${1:-} == --step ]]; then
    dir=$2
    exec 9>&-
    "${@:3}"
else
    main "$@"
fi
