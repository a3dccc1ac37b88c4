#!/usr/bin/env python3
"""rolling-service.py KUBECONFIG [PODS] [SPREAD_S]: writes of EndpointSlices while a service's pods are replaced (maxSurge 25 %).

Fake kubelets (../shared/behaviour, or $BEHAVIOUR) start and end each pod after a random time up to SPREAD_S. Told are the writes that the
API server counts, how many endpoints changed in them, in how many slices these would find room, and in how many seconds there were writes.
Needs an API server, a controller manager and a scheduler, and no nodes."""
import json
import os
import random
import re
import sys
import time

sys.path.insert(0, os.environ.get("BEHAVIOUR", os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../shared/behaviour")))
from cluster import MERGE, Api, Kubelets, Mirror, from_kubeconfig, url  # noqa: E402

PODS = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
SPREAD_S = float(sys.argv[3]) if len(sys.argv) > 3 else 3.0
NS, NODES = "rolling", [f"rolling-{i}" for i in range(20)]
slices, changes, written_at = {}, [], []


class Slow(Kubelets):
    def later(self, delay, fn, *a):
        super().later(random.uniform(0.2, SPREAD_S) if fn in (self._start, self._terminate) else delay, fn, *a)


def on_event(res, typ, o):
    meta = o["metadata"]
    if res == "endpointslices" and meta["namespace"] == NS:
        found = {} if typ == "DELETED" else {e["targetRef"]["uid"]: json.dumps(e, sort_keys=True) for e in o.get("endpoints") or []}
        before = slices.get(meta["name"], {})
        slices[meta["name"]] = found
        changes.append(sum(before.get(k) != found.get(k) for k in set(before) | set(found)))
        written_at.append(time.monotonic())


def writes(api):
    text = api.req("GET", "/metrics")[1]
    lines = re.findall(r'apiserver_request_total\{[^}]*resource="endpointslices"[^}]*\} \d+', text)
    return sum(int(line.rsplit(" ", 1)[1]) for line in lines if re.search(r'code="2\d\d"', line) and re.search(r'verb="(POST|PUT|PATCH|DELETE)"', line))


def template(version):
    return {"metadata": {"labels": {"app": "web"}, "annotations": {"version": version}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}


def done(mirror, version):
    pods = mirror.list("pods", NS)
    ready = sum('"ready": true' in e for s in slices.values() for e in s.values())
    return len(pods) == PODS == ready == sum(map(len, slices.values())) and all(p["metadata"]["annotations"]["version"] == version for p in pods)


def stage(api, mirror, name, version, act):
    before, n, t = writes(api), len(changes), time.monotonic()
    code, answer = act()
    if code >= 300:
        sys.exit(f"{name}: {answer}")
    while not done(mirror, version):
        if time.monotonic() - t > 250:
            sys.exit(f"{name}: not done; {len(mirror.list('pods', NS))} pods, {sum(map(len, slices.values()))} endpoints")
        time.sleep(0.2)
    took = time.monotonic() - t
    time.sleep(2)
    changed, seconds = sum(changes[n:]), len({int(at) for at in written_at[n:]})
    print(f"{name}: {took:.1f} s, {writes(api) - before} writes, {changed} changes of endpoints ({-(-changed // 100)} full slices), "
          f"writes in {seconds} s, slices {sorted(len(s) for s in slices.values() if s)}", flush=True)


def main():
    api = Api(**from_kubeconfig(sys.argv[1]))
    mirror = Mirror(api)
    mirror.need("pods", "nodes")
    kubelets = Slow(api, mirror, workers=8, lease_every=10)
    for ns in (NS, "kube-node-lease"):
        api.req("POST", "/api/v1/namespaces", {"metadata": {"name": ns}})
    for node in NODES:
        kubelets.register(node, {})
    mirror.listeners.append(on_event)
    mirror.need("endpointslices")
    api.req("POST", url("services", NS), {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}})
    body = {"metadata": {"name": "web"}, "spec": {"replicas": PODS, "selector": {"matchLabels": {"app": "web"}}, "template": template("1")}}
    stage(api, mirror, "first", "1", lambda: api.req("POST", url("deployments", NS), body))
    for version in "23":
        change = {"spec": {"template": template(version)}}
        stage(api, mirror, "rolling", version, lambda: api.req("PATCH", url("deployments", NS, "web"), change, MERGE))
    api.req("DELETE", "/api/v1/namespaces/" + NS)
    for node in NODES:
        kubelets.forget(node)
        api.req("DELETE", url("nodes", None, node))


main()
