#!/usr/bin/env bash
# A Docker daemon apart from any of the system's; a machine where one runs already uses that.
#
#   docker.sh up      start it
#   docker.sh down    stop it, put back what it changed on this machine, and fail if state.sh still sees a difference
set -euo pipefail
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/env.sh"
reach
# Settings of the machine that the daemon or a node changes.
SYSCTLS=(net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv6.conf.default.forwarding
  kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes vm.overcommit_memory vm.panic_on_oom)

running() { # not so another program with its number, or a dead one that nobody has waited for
  [ -r "$STATE/docker.pid" ] &&
    sed -n '/^Name:\|^State:/p' "/proc/$(cat "$STATE/docker.pid")/status" 2>/dev/null | tr -d '\t\n' | grep -q '^Name:dockerdState:[^ZX]'
}

up() {
  mkdir -p "$STATE" "$LOGS" "$DOCKER_CONFIG"
  if [ ! -e "$STATE/before" ]; then
    if iptables -w -t nat -S DOCKER >/dev/null 2>&1; then
      die "another Docker daemon keeps this machine's iptables and does not answer here: export DOCKER_HOST for it"
    fi
    "$OFF/state.sh" >"$STATE/state"
    {
      iptables -w -S FORWARD | sed -n 's/^-P FORWARD /policy=/p'
      for folder in /etc/docker /run/docker /run/containerd; do [ -e $folder ] || echo "new=\"\${new:-} $folder\""; done
      sysctl "${SYSCTLS[@]}" 2>/dev/null | sed 's/\(.*\) = /sysctl -qw \1=/'
    } >"$STATE/before"
  fi
  rm -f "$STATE/docker.pid"
  echo "{\"default-runtime\": \"runc-less\", \"runtimes\": {\"runc-less\": {\"path\": \"$OFF/runc-less\"}}}" >"$STATE/daemon.json"
  # A clean environment: no proxy setting gets into the nodes. Lowering an OOM score takes a capability that may be missing.
  env -i PATH="$PATH" HOME="$STATE" setsid dockerd --config-file "$STATE/daemon.json" --data-root "$STATE/docker" \
    --exec-root "$STATE/exec" --pidfile "$STATE/docker.pid" --host "$DOCKER_HOST" --group "" --oom-score-adjust=0 \
    </dev/null >>"$LOGS/dockerd.log" 2>&1 &
  disown $!
  wait_for 30 "Docker daemon (log: $LOGS/dockerd.log)" docker version
  say "Docker daemon at $DOCKER_HOST"
}

stop() {
  docker ps --quiet | xargs --no-run-if-empty docker kill >/dev/null
  docker network prune --force >/dev/null
  kill "$(cat "$STATE/docker.pid")"
  local tries
  for ((tries = 0; tries < 100; tries++)); do running || return 0; sleep 0.2; done
  die "the Docker daemon does not stop: process $(cat "$STATE/docker.pid")"
}

# rules IPTABLES TABLE: those that the daemon made: its chains, what jumps to them, what names its bridges
rules() { "$1" -w -t "$2" -S 2>/dev/null | grep -E '^-A (FORWARD|PREROUTING|OUTPUT|POSTROUTING) .*(-j DOCKER|[io] (docker0|br-[0-9a-f]{12}) )' || true; }
chains() { { "$1" -w -t "$2" -S 2>/dev/null || true; } | sed -n 's/^-N \(DOCKER.*\)/\1/p'; }

put_back() {
  local each tables table rule policy="" new=""
  for each in $(ip -o link show type bridge | sed -En 's/^[0-9]+: (docker0|br-[0-9a-f]{12}):.*/\1/p'); do ip link del "$each"; done
  for tables in iptables ip6tables; do
    for table in filter nat; do
      rules $tables $table | sed 's/^-A/-D/' | while read -r rule; do eval "$tables -w -t $table $rule"; done
      for each in $(chains $tables $table); do $tables -w -t $table -F "$each"; done
      for each in $(chains $tables $table); do $tables -w -t $table -X "$each"; done
    done
  done
  # shellcheck disable=SC1091  # made by up
  . "$STATE/before"
  [ -z "$policy" ] || iptables -w -P FORWARD "$policy"
  # shellcheck disable=SC2086  # a list of folders
  [ -z "$new" ] || rm -rf --one-file-system $new
  awk -v folder="$STATE/" 'index($2, folder) == 1 {print $2}' /proc/mounts | sort -r | while read -r each; do umount -l "$each"; done
  for each in /sys/fs/cgroup/*/docker /sys/fs/cgroup/docker; do
    [ ! -d "$each" ] || find "$each" -depth -type d -exec rmdir {} +
  done
  rm -rf --one-file-system "$STATE/exec" "$STATE/before" "$STATE/docker.sock"
}

case ${1:-} in
  up)
    if [ "$DOCKER_HOST" != "unix://$STATE/docker.sock" ]; then say "using the Docker daemon that runs"; exit; fi
    running || up ;;
  down)
    rm -f "$STATE/kubeconfig" "$STATE"/webhook.*
    [ -e "$STATE/before" ] || exit 0
    ! running || stop
    put_back
    [ ! -e "$STATE/state" ] || diff "$STATE/state" <("$OFF/state.sh") >&2 || die "this machine is not as it was: see above"
    rm -f "$STATE/state"
    say "Docker daemon stopped" ;;
  *) die "usage: docker.sh up | down" ;;
esac
