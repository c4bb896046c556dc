#!/bin/bash
# Installs OHIF and playwright-core from npm into the user's cache, once for each version. No browser is downloaded:
# the tests use Debian's Chromium, which tests/install-peers.sh viewer installs.
set -euo pipefail
OHIF=3.13.2
here=$(cd "$(dirname "$0")" && pwd)
target=${DICOM_NODE_VIEWER:-${XDG_CACHE_HOME:-$HOME/.cache}/dicom-node-tests/viewer}

command -v npm >/dev/null || { echo "viewer/install: npm is not installed; the viewer's tests will skip" >&2; exit 0; }
wanted="$OHIF $(cat "$here/package.json")"
[[ -e $target/installed && $(cat "$target/installed") == "$wanted" ]] && exit 0

rm -rf "$target"
mkdir -p "$target"
cd "$target"
cp "$here/package.json" .
PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm install --no-audit --no-fund --no-package-lock --ignore-scripts --silent
# The package holds the built application; its dependencies are for building and not all of them are published.
archive=$(npm pack --silent "@ohif/app@$OHIF")
tar -xzf "$archive" --strip-components=1 package/dist
rm "$archive"
printf '%s\n' "$wanted" >installed
echo "viewer/install: OHIF $OHIF is in $target"
