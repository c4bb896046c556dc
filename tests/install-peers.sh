#!/bin/bash
# Installs the Debian packages that the tests drive as peers: a PACS, DICOM tools, a validator, an RT reader, a database.
# `install-peers.sh pixelmed viewer` installs two further sets, for `make conformance` and `make test-viewer`.
# Tests whose peer is missing skip and say so, hence a machine without apt or root is no error.
set -euo pipefail

# command or file -> package
declare -A peers=(
    [Orthanc]=orthanc [dcmsend]=dcmtk [dciodvfy]=dicom3tools [plastimatch]=plastimatch [pg_ctlcluster]=postgresql
    [faketime]=faketime [dcm2niix]=dcm2niix [/usr/share/orthanc/plugins/libOrthancDicomWeb.so]=orthanc-dicomweb
)
for set in "$@"; do
    case $set in
        pixelmed)
            peers+=([java]=default-jre-headless [/usr/share/java/pixelmed.jar]=libpixelmed-java)
            ;;
        viewer)
            peers+=([chromium]=chromium [/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf]=fonts-dejavu-core [npm]=npm)
            ;;
        *)
            echo "install-peers: no set '$set'; there are pixelmed and viewer" >&2
            exit 2
            ;;
    esac
done
services=(orthanc postgresql)

PATH="$PATH:/usr/sbin:/sbin"
missing=()
for command in "${!peers[@]}"; do
    command -v "$command" >/dev/null || [[ $command == /* && -e $command ]] || missing+=("${peers[$command]}")
done
((${#missing[@]})) || exit 0

skip() {
    echo "install-peers: $1" >&2
    echo "install-peers: not installed: ${missing[*]}; tests that need them will skip" >&2
    echo "install-peers: to have them: apt install ${missing[*]}" >&2
    exit 0
}

command -v apt-get >/dev/null || skip "this system has no apt"
if ((EUID)); then
    if command -v sudo >/dev/null && { [[ -t 0 ]] || sudo -n true 2>/dev/null; }; then
        exec sudo -- "$0" "$@"
    fi
    skip "root is needed to install packages"
fi

# Packages must not start their services, now or at the next boot: they would hold the ports of somebody's PACS or
# database. While policy-rc.d says 101, maintainer scripts start nothing. A policy that is already there is obeyed.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
for package in "${missing[@]}"; do
    if ! LC_ALL=C apt-cache policy "$package" 2>/dev/null | grep -q 'Candidate: [0-9]'; then
        apt-get update --quiet=2
        break
    fi
done
install=(apt-get install --quiet=2 --yes --no-install-recommends)
"${install[@]}" "${missing[@]}" || {
    apt-get update --quiet=2 # the lists may name versions that are gone
    "${install[@]}" "${missing[@]}"
}

for service in "${services[@]}"; do
    if [[ " ${missing[*]} " == *" $service "* ]]; then
        update-rc.d "$service" disable >/dev/null 2>&1 || true
        deb-systemd-helper disable "$service.service" >/dev/null 2>&1 || true
    fi
done
echo "install-peers: installed ${missing[*]}"
