#!/bin/bash
# Runs upstream's conformance suite (e2e.test of k8s.io/kubernetes v1.36.3) against the binaries of this tree.
#
#   scripts/conformance.sh [OPTION...]     options of conformance/run.py: --sig sig-cli,sig-auth  --match REGEX  --procs 3
#                                          --names FILE  --serial no|only|all
#
# Needs root, Go, Python 3, kubectl, the packages of `make deps` and the Go module proxy; the first run builds the suite and
# the images (twenty minutes of CPU), later ones start at once. A control plane and two nodes run in network namespaces of
# their own and are gone afterwards; the machine's network is not touched.
#   CONFORMANCE_DIR   what is built, the cluster's state and the results (default target/conformance)
#   HARDWAY_BIN       the binaries under test (default target/release)
#   KEEP=1            leave the cluster running
set -euo pipefail
cd "$(dirname "$0")"
kit=$PWD/conformance
mkdir -p "${CONFORMANCE_DIR:=../target/conformance}"
dir=$(cd "$CONFORMANCE_DIR" && pwd)
bin=$(cd "${HARDWAY_BIN:-../target/release}" && pwd)

packages=(busybox-static bind9-dnsutils netcat-openbsd iperf curl iproute2 hostname gcc libc6-dev)
dpkg-query -W "${packages[@]}" >/dev/null || { echo "install what is missing of: ${packages[*]}" >&2; exit 1; }
"$kit/build.sh" "$dir"
[ -x "$dir/bin/e2e.test" ] || { echo "the suite was not built: see $dir/bin/e2e.test.log" >&2; exit 1; }
[ -e "$dir/images/nginx-1.27-0.tar" ] || "$kit/images.sh" "$dir"

# The daemons of this tree beside the machine's kubectl.
mkdir -p "$dir/daemons"
for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy; do
  ln -sf "$bin/$name" "$dir/daemons/$name"
done
ln -sf "$(command -v kubectl)" "$dir/daemons/kubectl"

export RUN=$dir/cluster NS=hwconf BIN=$dir/daemons IMAGES=$dir/images
[ -n "${KEEP:-}" ] || trap '"$kit/cluster.sh" down; rm -rf "$RUN"' EXIT
"$kit/cluster.sh" up
"$kit/run.py" --bin "$dir/bin" --out "$dir/results" --kubeconfig "$RUN/admin.conf" --kubectl "$BIN/kubectl" \
  --netns "/run/netns/$NS-cp" --procs 3 "$@"
