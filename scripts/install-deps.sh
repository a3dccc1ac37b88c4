#!/bin/bash
# Installs the Debian packages that building, running and testing hardway need; does nothing when all are there.
set -euo pipefail
packages=(build-essential protobuf-compiler etcd-server etcd-client containerd runc containernetworking-plugins
          iptables conntrack ipset iproute2 procps busybox-static curl openssl faketime)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
echo "installing: ${missing[*]}"
# the packages' own services would take the ports that hardway's etcd and containerd use
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
  trap 'rm -f $policy' EXIT
fi
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
