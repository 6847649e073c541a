# shellcheck shell=bash disable=SC2034  # sourced: others use what it sets
# What the scripts of this folder and of offline/ share; source it.
E2E=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$E2E/../.." && pwd)
CLUSTER_DIR=${CLUSTER_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/sonotome/cluster} # what was fetched or built; kept
CLUSTER=$(sed -n 's/^name: //p' "$ROOT/kind-config.yaml")

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# kubectl, for this cluster whatever the current context is
k() { kubectl --context "kind-$CLUSTER" "$@"; }

# wait_for SECONDS WHAT COMMAND...: until the command succeeds
wait_for() {
  local limit=$1 what=$2 end=$((SECONDS + $1)); shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || { "$@" >&2 || true; die "$what: not within $limit s"; }
    sleep 0.5
  done
}
