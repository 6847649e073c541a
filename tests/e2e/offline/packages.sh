#!/usr/bin/env bash
# The Debian packages and tools that the other scripts of this folder take; installs the packages that are missing.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"
[ "$(id -u)" = 0 ] || die "OFFLINE=1 needs root: for a Docker daemon and for file systems of Debian packages"
command -v apt-get >/dev/null || die "OFFLINE=1 needs Debian, whose packages it builds from"

missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need dockerd docker.io; need docker docker.io; need containerd containerd; need runc runc; need iptables iptables
need ip iproute2; need jq jq; need mmdebstrap mmdebstrap; need openssl openssl; need python3 python3; need ps procps
python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
[ ${#missing[@]} = 0 ] && exit
say "apt-get install ${missing[*]}"
apt-get update --quiet=2
# Docker must not start by itself: docker.sh starts one of its own. A policy-rc.d that is there already stays.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod 755 "$policy"
  trap 'rm "$policy"' EXIT
fi
DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends "${missing[@]}" >/dev/null
# Nor at the next boot. The helper answers only to what names itself a package's script.
if [[ " ${missing[*]} " == *" docker.io "* ]]; then
  DPKG_MAINTSCRIPT_PACKAGE=docker.io deb-systemd-helper disable docker.service docker.socket containerd.service >/dev/null
fi
