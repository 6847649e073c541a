#!/usr/bin/env bash
# Makes the cluster's worker look as if it had GPUs: the label and the extended resource that the chart's profiles ask for.
# For the scheduler only: no container gets a device. The worker keeps the resource until its kubelet starts again.
#
#   gpu.sh on [COUNT]    gpu.sh off
set -euo pipefail
. "$(dirname "$0")/lib.sh"
node=$CLUSTER-worker
resource() { # add|remove [COUNT]
  local part
  for part in capacity allocatable; do
    k patch node "$node" --subresource=status --type=json \
      --patch "[{\"op\": \"$1\", \"path\": \"/status/$part/nvidia.com~1gpu\", \"value\": \"${2:-}\"}]" >/dev/null
  done
}
has() { [ -n "$(k get node "$node" --output 'jsonpath={.status.capacity.nvidia\.com/gpu}')" ]; }
case ${1:-} in
  on)
    k label node "$node" --overwrite nvidia.com/gpu.present=true >/dev/null
    resource add "${2:-1}" ;;
  off)
    k label node "$node" nvidia.com/gpu.present- >/dev/null
    ! has || resource remove ;;
  *) die "usage: gpu.sh on [COUNT] | off" ;;
esac
