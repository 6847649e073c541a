# shellcheck shell=bash disable=SC2034  # sourced: others use what it sets
# The platform from its registries: images are pulled, the releases' manifests fetched. Sourced by platform.sh.

# Kubernetes 1.34, by the digest that kind 0.30 has for it (pkg/apis/config/defaults).
NODE_IMAGE=kindest/node:v1.34.0@sha256:7416a61b42b1662ca6ca89f02028ac133a309a2a30ba309614e8ec94d976dc5a

BASE_IMAGE=${BASE_IMAGE:-} # empty for the Dockerfiles' own

source_reach() { :; }
source_env() { :; }
source_down() { :; }

source_tools() {
  local each
  for each in docker kind kubectl helm curl; do
    command -v "$each" >/dev/null || die "$each is missing (or: make kind OFFLINE=1 on Debian)"
  done
  docker version >/dev/null || die "no Docker daemon that you may use"
}

source_node_image() { echo "$NODE_IMAGE"; }

source_release() { # REPOSITORY MODULE VERSION PATH
  curl --fail --silent --show-error --location --retry 3 "https://raw.githubusercontent.com/$1/$3/$4"
}

source_mark() { echo online; }
source_platform_images() { :; } # the nodes pull them

# KServe's release leaves the key of its webhooks to cert-manager.
source_webhook_key() {
  apply "$(release cert-manager)"
  settled cert-manager
  wait_for 120 "cert-manager's webhook" k create --dry-run=server --filename "$E2E/platform/issuer.yaml"
}

source_adapt() { cat; }
