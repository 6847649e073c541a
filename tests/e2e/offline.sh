# shellcheck shell=bash disable=SC2034  # sourced: others use what it sets
# The platform without a registry: everything is built by offline/ from Go modules and Debian packages. Sourced by platform.sh.
. "$E2E/offline/env.sh"

source_reach() { reach; }
source_env() { environment; }
source_down() { "$OFF/docker.sh" down && rm -f "$CLUSTER_DIR/offline"; }

source_tools() {
  mkdir -p "$STATE"
  touch "$CLUSTER_DIR/offline"
  "$OFF/packages.sh"
  "$OFF/build.sh"
  "$OFF/docker.sh" up
  "$OFF/node-image.sh"
  "$OFF/base-image.sh"
}

source_node_image() { echo "$NODE_IMAGE"; }

source_release() { # REPOSITORY MODULE VERSION PATH
  cat "$(go mod download -json "$2@$3" | jq -r .Dir)/$4"
}

source_mark() { stat --format '%n %s %Y' "$ARCHIVES"/*.tar; }
source_platform_images() {
  kind load image-archive --quiet --name "$CLUSTER" --nodes "$CLUSTER-worker" "$ARCHIVES"/*.tar
}

# In place of cert-manager: a key made here, which signs itself.
source_webhook_key() {
  local name=kserve-webhook-server-service.kserve.svc key=$STATE/webhook.key certificate=$STATE/webhook.crt
  [ -s "$certificate" ] ||
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=$name" \
      -addext "subjectAltName=DNS:$name" -keyout "$key" -out "$certificate" 2>/dev/null
  k -n kserve create secret tls kserve-webhook-server-cert --cert "$certificate" --key "$key" --dry-run=client --output yaml | apply -
}

# Manifests on stdin, for the images that build.sh made and without cert-manager.
source_adapt() {
  local out; out=$(mktemp)
  awk -v RS='(^|\n)---\n' '!/(^|\n)apiVersion: cert-manager\.io\// {print "---\n" $0}' |
    sed -E -e "s#gcr.io/knative-releases/knative.dev/serving/cmd/([a-z]+)@sha256:[0-9a-f]{64}#dev.local/knative-\1:$KNATIVE_VERSION#" \
      -e "s#gcr.io/knative-releases/knative.dev/net-kourier/cmd/kourier@sha256:[0-9a-f]{64}#dev.local/kourier:$KOURIER_VERSION#" \
      -e 's#docker.io/envoyproxy/envoy:#dev.local/envoy:#' \
      -e "s#image: kserve/kserve-controller:.*#image: dev.local/kserve-manager:$KSERVE_VERSION#" \
      -e "s#^  clientConfig:\$#&\n    caBundle: $(base64 -w0 "$STATE/webhook.crt")#" >"$out"
  cat "$out"; rm "$out"
}
