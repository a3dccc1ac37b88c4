#!/bin/bash
# Build, from the Go module proxy, what the images and the runner need.
#
#   build.sh BUILD_DIR             BUILD_DIR/bin: agnhost nnp sample-apiserver coredns ginkgo e2e.test
#
# What exists is not built again. A go.mod is written when BUILD_DIR has none. Needs Go 1.26, python3 and
# (first run) the module proxy; about 20 CPU minutes.
set -u
build=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$build" || exit 1
mkdir -p bin
version=v1.36.3 staging=v0.36.3
if [ ! -f go.mod ]; then
  mod=$(go mod download -json "k8s.io/kubernetes@$version" | python3 -c 'import json,sys; print(json.load(sys.stdin)["GoMod"])')
  { printf 'module conformance\ngo 1.26.0\nrequire k8s.io/kubernetes %s\n' "$version"
    sed -nE "s,^[[:space:]]*(k8s\.io/[a-z-]+) v0\.0\.0$,replace \1 => \1 $staging,p" "$mod"; } >go.mod
fi
flags='-s -w'
for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do  # `kubectl version` of a build without them fails a test
  flags="$flags -X $p.gitVersion=$version -X $p.gitMajor=1 -X $p.gitMinor=36 -X $p.gitTreeState=clean -X $p.buildDate=2026-01-01T00:00:00Z"
done
one() { # one OUTPUT PACKAGE
  [ -x "$1" ] && return
  local t=$SECONDS
  go build -mod=mod -trimpath -ldflags "$flags" -o "$1" "$2" >"$1.log" 2>&1
  echo "$1 rc=$? $((SECONDS - t))s"
}
alone() { # alone OUTPUT_DIR MODULE/CMD@VERSION: its own module graph; its dependencies must not meet kubernetes' pins
  [ -x "$1/$(basename "${2%@*}")" ] && return
  (cd / && GOBIN=$build/$1 CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "$2") >"$1/$(basename "${2%@*}").log" 2>&1
  echo "$2 rc=$?"
}
export CGO_ENABLED=0  # static, for images without a libc
one bin/ginkgo github.com/onsi/ginkgo/v2/ginkgo
one bin/nnp k8s.io/kubernetes/test/images/nonewprivs
one bin/agnhost k8s.io/kubernetes/test/images/agnhost
one bin/sample-apiserver k8s.io/sample-apiserver
alone bin github.com/coredns/coredns@v1.12.4
if [ ! -x bin/e2e.test ]; then
  go test -vet=off -mod=mod -c -trimpath -ldflags '-s -w' -o bin/e2e.test k8s.io/kubernetes/test/e2e >bin/e2e.test.log 2>&1
  echo "e2e.test rc=$?"
fi
