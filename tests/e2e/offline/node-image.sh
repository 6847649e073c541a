#!/usr/bin/env bash
# The image of kind's nodes: Debian packages, kind's own files out of its module, the programs of build.sh. Needs the daemon.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/env.sh"
reach
PROGRAMS=(kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl kubeadm etcd coredns crictl kindnet pause kind)
PACKAGES=systemd,conntrack,iptables,nftables,iproute2,ethtool,util-linux,mount,kmod,libseccomp2,pigz,e2fsprogs,ca-certificates
PACKAGES=$PACKAGES,curl,jq,procps,containerd,runc,containernetworking-plugins
from=$(stamp "$0" "$OFF/Dockerfile" "$OFF/mkimage.py" "$OFF/storage.yaml" "${PROGRAMS[@]/#/$STAMPS/}")
has_image "$NODE_IMAGE" "$from" && exit
work=$STATE/work; rm -rf --one-file-system "$work"; mkdir -p "$work/rootfs" "$work/images"
kind_source=$(module devtools sigs.k8s.io/kind)

# Packages are downloaded for a new list or release only, not for every program that changes.
debian=$CLUSTER_DIR/rootfs-$(stamp <(echo "$PACKAGES") /etc/os-release).tar
if [ ! -e "$debian" ]; then
  say "node image: Debian packages"
  rm -f "$CLUSTER_DIR"/rootfs-*.tar
  rootfs "$debian" "$PACKAGES"
fi
tar -C "$work/rootfs" -xf "$debian" --exclude='./dev/*'
docker import "$debian" localhost/sonotome/kind-rootfs:1 >/dev/null

# ---- the node without Kubernetes' images
context=$work/context
mkdir -p "$context/files/usr/bin" "$context/files/kind/manifests"
cp -r "$kind_source/images/base/files/." "$context/files/"
chmod -R u+w "$context/files"
find "$context/files" -type f -exec chmod 644 {} +
chmod 755 "$context"/files/usr/local/bin/* "$context"/files/kind/bin/*
install -m 755 "$BIN/kubeadm" "$BIN/kubelet" "$BIN/kubectl" "$context/files/usr/bin/"
install -m 755 "$BIN/crictl" "$context/files/usr/local/bin/"
printf %s "$KUBE_VERSION" >"$context/files/kind/version"
cp "$OFF/storage.yaml" "$context/files/kind/manifests/default-storage.yaml"
# kind's manifest for the network is text in its source, for its own image.
# shellcheck disable=SC2016  # backquotes of Go
sed -n '/^const defaultCNIManifest = `$/,/^`$/p' "$kind_source/pkg/build/nodeimage/const_cni.go" |
  sed -e 's/^const defaultCNIManifest = `//; /^`$/d; s/` + kindnetdImage + `/dev.local\/kindnet:1/' >"$context/files/kind/manifests/default-cni.yaml"
grep -q 'image: dev.local/kindnet:1' "$context/files/kind/manifests/default-cni.yaml" || die "kind's source has no network manifest as known here"
say "node image: docker build"
DOCKER_BUILDKIT=0 docker build --quiet --tag localhost/sonotome/kind-base:1 --file "$OFF/Dockerfile" "$context" >/dev/null 2>"$LOGS/node-image.log" ||
  { cat "$LOGS/node-image.log" >&2; die "the node image does not build"; }

# ---- images of the control plane, under the names that kubeadm and kind's containerd ask for
archive() { local out=$work/images/$1.tar; shift; python3 "$OFF/mkimage.py" "$out" "$@"; }
# iptables and nft with what they load: the extensions take more libraries than the programs
net=(--add "$work/rootfs/usr/sbin/nft:usr/sbin/nft")
for name in {iptables,ip6tables}{,-save,-restore}; do net+=(--add "$work/rootfs/usr/sbin/xtables-nft-multi:usr/sbin/$name"); done
extensions=$(chroot "$work/rootfs" sh -c 'echo /usr/lib/*/xtables')
net+=(--add "$work/rootfs$extensions:$extensions")
for file in $(chroot "$work/rootfs" sh -c "ldd /usr/sbin/nft /usr/sbin/xtables-nft-multi $extensions/*.so" | grep -o '/[^ :]*\.so\.[^ :]*' | sort -u); do
  net+=(--add "$work/rootfs$(chroot "$work/rootfs" realpath "$file"):$file")
done
sandbox=$(sed -n 's/.*sandbox_image = "\(.*\)"/\1/p' "$context/files/etc/containerd/config.toml")
for image in $("$BIN/kubeadm" config images list --kubernetes-version "$KUBE_VERSION") "$sandbox"; do
  name=$(basename "${image%%:*}")
  case $name in
    pause) archive "pause-${image##*:}" "$image" --add "$BIN/pause:pause" --entrypoint /pause ;;
    coredns) archive coredns "$image" --user 0 --add "$BIN/coredns:coredns" --entrypoint /coredns ;;
    kube-proxy) archive kube-proxy "$image" --user 0 --add "$BIN/kube-proxy:usr/local/bin/kube-proxy" "${net[@]}" --entrypoint /usr/local/bin/kube-proxy ;;
    kube-*|etcd) archive "$name" "$image" --user 0 --add "$BIN/$name:usr/local/bin/$name" --entrypoint "/usr/local/bin/$name" ;;
    *) die "kubeadm asks for $image, which is not known here" ;;
  esac
done
archive kindnet dev.local/kindnet:1 --user 0 --add "$BIN/kindnet:kindnet" "${net[@]}" --entrypoint /kindnet

# ---- as kind makes its own: the images are imported inside a container, and that is the node image
say "node image: Kubernetes' images"
container=$(docker run --detach --entrypoint sleep --security-opt seccomp=unconfined localhost/sonotome/kind-base:1 infinity)
trap 'docker rm --force --volumes "$container" >/dev/null' EXIT
docker exec --detach "$container" containerd
wait_for 20 "containerd in the node image" docker exec "$container" ctr version
for file in "$work/images"/*.tar; do
  docker exec --interactive "$container" ctr --namespace k8s.io images import --label=io.cri-containerd.pinned=pinned \
    --all-platforms --no-unpack --digests - <"$file" >>"$LOGS/node-image.log"
done
# shellcheck disable=SC2016  # for the shell inside
docker exec "$container" sh -c 'kill $(pidof containerd); while pidof containerd >/dev/null; do sleep 0.1; done'
docker commit --change 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' --change "LABEL stamp=$from" "$container" "$NODE_IMAGE" >/dev/null
rm -rf --one-file-system "$work"
