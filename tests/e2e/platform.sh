#!/usr/bin/env bash
# A kind cluster that serves: Kubernetes, Knative, Kourier, KServe, then Sonotome's images and chart. Every step can be run
# again and does what is missing. With OFFLINE=1 all of it is built from Go modules and Debian packages, and nothing pulled.
#
#   platform.sh up         every step: tools, cluster, serving, images, load, chart
#   platform.sh STEP...    these steps
#   platform.sh there      whether there is a cluster that this script made
#   platform.sh env        what to `eval` for the cluster's kubectl, helm, kind and docker, GATEWAY and CLUSTER_IMAGES
#   platform.sh down       delete the cluster, stop what `tools` started
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The demonstration: the images that it takes (`make images`) and the chart's values.
IMAGES=${IMAGES:-audio whisper-ct2 demo-weights caption caption-demo-weights dicom ct-clip}
NAMESPACE=sonotome
REGISTRY=dev.local/sonotome
TAG=$(sed -n 's/^appVersion: //p' "$ROOT/charts/sonotome/Chart.yaml")
VALUES=(
  --values "$ROOT/charts/sonotome/values-kind.yaml"
  --set models.whisper-base.enabled=true
  --set "models.whisper-base.predictor.weights.image=$REGISTRY/demo-weights:$TAG"
)
GATEWAY=http://127.0.0.1:31080 # the port of kind-config.yaml

CREATED=$CLUSTER_DIR/created # there from the end of `kind create` on

# The two sources differ in the functions source_*. A cluster that was made offline stays so.
if [ "${OFFLINE:-}" = 1 ] || [ -e "$CLUSTER_DIR/offline" ]; then
  . "$E2E/offline.sh"
else
  . "$E2E/online.sh"
fi

tools() { source_tools; }

cluster() {
  if ! kind get clusters 2>/dev/null | grep -qx "$CLUSTER" || [ ! -e "$CREATED" ]; then
    kind delete cluster --quiet --name "$CLUSTER" # what an interrupted run left
    kind create cluster --config "$ROOT/kind-config.yaml" --image "$(source_node_image)" --wait 180s
    mkdir -p "$CLUSTER_DIR"; touch "$CREATED"
  fi
  # Nodes that stopped, with Docker or with the machine, go on.
  kind get nodes --name "$CLUSTER" | xargs docker start >/dev/null
  kind export kubeconfig --name "$CLUSTER" >/dev/null
  # (the nodes of a cluster that just started again cannot be asked for yet)
  wait_for 180 "the nodes (make kind-down, then again)" k wait --for=condition=Ready node --all --timeout=30s
}

# release NAME: the path of a release's manifest, fetched once and compared with its checksum
release() {
  local name sha repository module version path file
  read -r name sha repository module version path < <(grep "^$1 " "$E2E/releases.txt")
  file=$CLUSTER_DIR/releases/$sha.yaml
  if [ ! -e "$file" ]; then
    mkdir -p "$CLUSTER_DIR/releases"
    source_release "$repository" "$module" "$version" "$path" >"$file.part" || die "cannot fetch $name $version"
    sha256sum --quiet --check <<<"$sha  $file.part" >&2 || die "$name $version is not what releases.txt says"
    mv "$file.part" "$file"
  fi
  echo "$file"
}

apply() { k apply --server-side --force-conflicts --filename "$1" >/dev/null; }

# settled NAMESPACE...: every deployment in them is available
settled() {
  local namespace
  for namespace; do
    k -n "$namespace" wait deployment --all --for=condition=Available --timeout=600s >/dev/null ||
      { k -n "$namespace" get pods >&2; die "namespace $namespace does not get ready"; }
  done
}

serving() {
  local mark
  mark=$({ source_mark; find "$E2E/releases.txt" "$E2E/platform" "$ROOT/manifests/cluster" -type f | sort | xargs cat; } | sha256sum | cut -c1-16)
  [ "$(k -n kserve get configmap sonotome-platform --output 'jsonpath={.data.mark}' 2>/dev/null)" = "$mark" ] || install_serving
  settled knative-serving kourier-system kserve
  # A deployment is available a moment before its webhook is reached.
  wait_for 120 "webhooks of KServe and Knative" k create --dry-run=server --filename "$E2E/platform/probe.yaml"
  k -n kserve create configmap sonotome-platform --from-literal "mark=$mark" --dry-run=client --output yaml | apply -
}

install_serving() {
  local work name part
  say "Knative, Kourier, KServe"
  work=$CLUSTER_DIR/manifests; rm -rf "$work"; mkdir -p "$work"
  source_platform_images

  # Definitions first: the rest has objects of them.
  for name in knative-crds kserve-crds; do apply "$(release "$name")"; done
  # (kubectl fails at once on a definition that has no conditions yet)
  wait_for 300 "custom resource definitions" k wait --for=condition=Established crd --all --timeout=60s
  k create namespace kserve --dry-run=client --output yaml | apply -
  source_webhook_key

  # The settings are applied as their README says, but are in the manifests before: applied again, these change nothing.
  cp -r "$E2E/platform/." "$work"
  for name in knative/{activator,config-{defaults,deployment,features}} knative-without-mesh/config-network kserve/with-kourier; do
    part=${name%%[-/]*} # of $work
    cp "$ROOT/manifests/cluster/$name.yaml" "$work/$part/"
    echo "  - path: $(basename "$name").yaml" >>"$work/$part/kustomization.yaml"
  done
  for name in knative kourier kserve; do
    cp "$(release "$name")" "$work/$name/release.yaml"
    kubectl kustomize "$work/$name" | source_adapt >"$work/$name.yaml"
    apply "$work/$name.yaml"
  done
  # (a webhook that just started is called before its certificate is known)
  wait_for 180 "the settings of manifests/cluster" settings
}

settings() {
  local name
  for name in knative knative-without-mesh kserve/with-kourier.yaml kserve/storage-container.yaml; do
    k apply --server-side --force-conflicts --field-manager=sonotome --filename "$ROOT/manifests/cluster/$name" || return
  done
}

images() {
  make --no-print-directory -C "$ROOT" images REGISTRY="$REGISTRY" TAG="$TAG" IMAGES="$IMAGES" ${BASE_IMAGE:+"BASE_IMAGE=$BASE_IMAGE"}
}

load() {
  local image
  # No pod runs on the control plane. What the node has already is not sent again. One by one: the archive of all is their size again.
  for image in $IMAGES; do
    kind load docker-image --quiet --name "$CLUSTER" --nodes "$CLUSTER-worker" "$REGISTRY/$image:$TAG"
  done
}

chart() {
  helm --kube-context "kind-$CLUSTER" upgrade --install sonotome "$ROOT/charts/sonotome" --namespace "$NAMESPACE" \
    --create-namespace "${VALUES[@]}"
  # Not --for=condition=Ready: KServe does not keep status.observedGeneration, which kubectl would wait for after an update.
  k -n "$NAMESPACE" wait inferenceservice --all --timeout=300s >/dev/null \
    --for='jsonpath={.status.conditions[?(@.type=="Ready")].status}=True' ||
    { k -n "$NAMESPACE" get inferenceservices,pods >&2; die "the service does not get ready"; }
  say "GATEWAY=$GATEWAY"
}

down() {
  source_reach
  if docker version >/dev/null 2>&1; then kind delete cluster --name "$CLUSTER"; fi
  rm -f "$CREATED"
  source_down
}

# run STEP...: one after the other
run() {
  local step begin
  for step; do
    begin=$SECONDS
    "$step"
    say "$step: $((SECONDS - begin)) s"
  done
}

up() {
  local images
  run tools cluster
  # Serving is mostly waiting, and building and loading need none of it.
  run images load &
  images=$!
  # shellcheck disable=SC2064  # where a step fails, the variable is gone before the trap is run
  trap "kill $images 2>/dev/null || true" EXIT
  run serving
  wait "$images"
  trap - EXIT
  run chart
}

usage="platform.sh up | down | there | env | STEP..., a step being tools, cluster, serving, images, load or chart"
[ $# -gt 0 ] || die "$usage"
case $1 in
  there) [ -e "$CREATED" ]; exit ;;
  env) source_reach; source_env; echo "export GATEWAY=$GATEWAY CLUSTER_IMAGES='$IMAGES'"; exit ;;
esac
for step; do
  case $step in up|tools|cluster|serving|images|load|chart|down) ;; *) die "$usage" ;; esac
done
source_reach
for step; do
  if [ "$step" = up ]; then up; else run "$step"; fi
done
