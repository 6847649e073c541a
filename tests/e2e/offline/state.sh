#!/usr/bin/env bash
# What a Docker daemon or a cluster could leave on a machine, as text to compare: processes, mounts, links, rules, settings.
set -euo pipefail
echo "processes:"; ps -eo stat=,comm= | sed -nE '/^Z/d; s/^[^ ]+ +(dockerd|docker-proxy|containerd.*|runc.*|kubelet|kube-.*|etcd|envoy)$/\1/p' | sort
echo "mounts:"; cut -d' ' -f1-3 /proc/mounts | sort
echo "links:"; ls /sys/class/net
echo "routes:"; ip route; ip -6 route | sort
echo "cgroups:"; find /sys/fs/cgroup -maxdepth 2 -type d | grep -E '/(docker|kube|system\.slice|init\.scope)[^/]*$' | sort || true
echo "folders:"; for folder in /etc/docker /run/docker /run/containerd /var/lib/docker /etc/cni /opt/cni; do [ ! -e $folder ] || echo $folder; done
for tables in iptables ip6tables; do # built-in chains come with the first look at a table
  echo "$tables:"; "$tables-save" 2>/dev/null | sed -n 's/ \[.*//; /^-/p; /^:/{/ ACCEPT$/!p}'
done
echo "settings:"; sysctl -a 2>/dev/null | grep -E '^(kernel\.(panic|keys\.root_max)|vm\.(overcommit_memory|panic_on_oom)|net\.ipv[46](\.conf\.(all|default))?\.(ip_)?forward)'
