#!/bin/sh
# Fills /opt/venv with the packages of a lock, less what no run needs: the build stage of every Dockerfile runs it. Not for your
# own machine, where `make` does. The lock of uv, which installs them, lies beside this file.
#
#   install.sh LOCK.txt [PACKAGE...]    packages that the lock has and the image does without
set -eu
here=$(dirname "$0")
uv=$here/uv/bin/uv
export VIRTUAL_ENV=/opt/venv UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
export PYC_INVALIDATION_MODE=UNCHECKED_HASH  # bytecode stays valid however an image builder sets the times of files

python -m venv "$here/uv"
"$here/uv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes --requirement "$here/uv.txt"
"$uv" venv --quiet --python "$(command -v python)" "$VIRTUAL_ENV"
"$uv" pip sync --quiet --require-hashes --compile-bytecode "$1"
shift

# What no run needs: compilers of protocols, which KServe asks for; the asyncio twin of Kubernetes' client,
# of which KServe uses the other; the packages' own tests.
"$uv" pip uninstall --quiet grpcio-tools "$@"
rm -rf "$VIRTUAL_ENV"/lib/python3*/site-packages/kubernetes/aio
find "$VIRTUAL_ENV" -type d -name tests -prune -exec rm -r {} +
