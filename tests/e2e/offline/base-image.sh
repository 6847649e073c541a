#!/usr/bin/env bash
# The image that stands in for python:slim in the FROM of the project's Dockerfiles: Debian's own Python, with this machine's
# certificate authorities, so that an index behind its proxy is reached from RUN.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/env.sh"
reach
bundle=/etc/ssl/certs/ca-certificates.crt
from=$(stamp "$0" /etc/os-release "$bundle")
has_image "$BASE_IMAGE" "$from" && exit
say "base image"
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
# shellcheck disable=SC2016  # mmdebstrap runs the hook
rootfs "$tmp/rootfs.tar" python3,python3-venv,python-is-python3,ca-certificates \
  --customize-hook='chroot "$1" python3 -c "import sys; assert (3, 11) <= sys.version_info < (3, 14), sys.version"' \
  --customize-hook="copy-in $bundle /etc/ssl/certs"
docker import --change "LABEL stamp=$from" --change "ENV SSL_CERT_FILE=$bundle PIP_CERT=$bundle" --change 'CMD ["python3"]' \
  "$tmp/rootfs.tar" "$BASE_IMAGE" >/dev/null
