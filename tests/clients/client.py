"""What a script written with the official Python client does; ends with an error where an answer is not what it should be.

The kubeconfig is the first argument.
"""
import sys
import threading

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

config.load_kube_config(sys.argv[1])
core, apps, ns = client.CoreV1Api(), client.AppsV1Api(), "default"


def refused(status, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except ApiException as error:
        assert error.status == status, error
    else:
        raise AssertionError(f"{status} was expected")


assert client.VersionApi().get_code().git_version.startswith("v1.36.")
body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="py", labels={"of": "python"}), data={"k": "0"})
made = core.create_namespaced_config_map(ns, body)
refused(409, core.create_namespaced_config_map, ns, body)

# A watch from the creation on sees each patch, whatever its content type, and the deletion.
events = []
stream = watch.Watch().stream(
    core.list_namespaced_config_map, ns, label_selector="of=python",
    resource_version=made.metadata.resource_version, timeout_seconds=60)


def follow():
    for event in stream:
        events.append((event["type"], event["object"].data.get("k")))
        if event["type"] == "DELETED":
            return


follower = threading.Thread(target=follow)
follower.start()
json_patch = [{"op": "replace", "path": "/data/k", "value": "1"}]
core.patch_namespaced_config_map("py", ns, json_patch, _content_type="application/json-patch+json")
for value, kind in (("2", "merge-patch+json"), ("3", "strategic-merge-patch+json")):
    core.patch_namespaced_config_map("py", ns, {"data": {"k": value}}, _content_type=f"application/{kind}")
applied = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "4"}}
apply = {"_content_type": "application/apply-patch+yaml", "field_manager": "me"}
refused(409, core.patch_namespaced_config_map, "py", ns, applied, **apply)
core.patch_namespaced_config_map("py", ns, applied, force=True, **apply)
stale = core.read_namespaced_config_map("py", ns)
stale.metadata.resource_version = made.metadata.resource_version
refused(409, core.replace_namespaced_config_map, "py", ns, stale)
core.delete_namespaced_config_map("py", ns)
follower.join()
changes = [("MODIFIED", str(i)) for i in range(1, 5)]
assert events == changes + [("DELETED", "4")], events

labels = {"app": "py"}
pod = client.V1PodSpec(containers=[client.V1Container(name="c", image="i")])
template = client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels=labels), spec=pod)
spec = client.V1DeploymentSpec(replicas=1, selector=client.V1LabelSelector(match_labels=labels), template=template)
apps.create_namespaced_deployment(ns, client.V1Deployment(metadata=client.V1ObjectMeta(name="py"), spec=spec))
assert apps.patch_namespaced_deployment_scale("py", ns, {"spec": {"replicas": 2}}).spec.replicas == 2
apps.delete_namespaced_deployment("py", ns, propagation_policy="Foreground")
going = apps.read_namespaced_deployment("py", ns).metadata
assert going.deletion_timestamp and going.finalizers == ["foregroundDeletion"], going
bad_name = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="A_b"))
refused(422, core.create_namespaced_config_map, ns, bad_name)

# Custom resources through discovery.
client.ApiextensionsV1Api().create_custom_resource_definition({
    "metadata": {"name": "things.example.com"},
    "spec": {"group": "example.com", "scope": "Namespaced",
             "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
             "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
                 "type": "object", "x-kubernetes-preserve-unknown-fields": True}}}]}})
established = watch.Watch().stream(
    client.ApiextensionsV1Api().list_custom_resource_definition, timeout_seconds=60)
for event in established:
    if any(c.type == "Established" and c.status == "True" for c in event["object"].status.conditions or []):
        break
things = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="example.com/v1", kind="Thing")
things.create(namespace=ns, body={"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}, "a": 1})
things.server_side_apply(namespace=ns, field_manager="me", name="t", body={
    "apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}, "b": 2})
thing = things.get(namespace=ns, name="t")
assert (thing.a, thing.b) == (1, 2), thing
things.delete(namespace=ns, name="t")
