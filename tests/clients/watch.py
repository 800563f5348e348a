"""Watches, pages and patches by the typed client, and an Endpoints object."""

import json
import sys
import threading

from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

config.load_kube_config(sys.argv[1])
core = client.CoreV1Api()


def service(name, port=80):
    return client.V1Service(
        metadata=client.V1ObjectMeta(name=name),
        spec=client.V1ServiceSpec(selector={"app": "backend"}, ports=[client.V1ServicePort(name="a", port=port)]),
    )


# A watch from a list's version misses nothing that comes after the list, and says nothing of what was in it.
listed = core.list_namespaced_service("paged")
seen = []


def follow():
    events = watch.Watch().stream(
        core.list_namespaced_service,
        "paged",
        resource_version=listed.metadata.resource_version,
        timeout_seconds=20,
    )
    for event in events:
        seen.append((event["type"], event["object"].metadata.name))
        if event["type"] == "DELETED":
            return


follower = threading.Thread(target=follow)
follower.start()
core.create_namespaced_service("paged", service("first"))
core.patch_namespaced_service("first", "paged", {"metadata": {"labels": {"a": "b"}}})
core.delete_namespaced_service("first", "paged")
follower.join(30)
assert seen == [("ADDED", "first"), ("MODIFIED", "first"), ("DELETED", "first")], seen

# Pages are of one version: what is created meanwhile is in none of them.
for number in range(7):
    core.create_namespaced_service("paged", service(f"s-{number}"))
names, more, rounds = [], None, 0
while True:
    page = core.list_namespaced_service("paged", limit=3, **({"_continue": more} if more else {}))
    names += [item.metadata.name for item in page.items]
    if rounds == 0:
        assert page.metadata.remaining_item_count == 4, page.metadata
        core.create_namespaced_service("paged", service("s-late"))
    rounds, more = rounds + 1, page.metadata._continue
    if not more:
        break
assert (names, rounds) == ([f"s-{number}" for number in range(7)], 3), (names, rounds)

# A dictionary is a strategic merge patch, a list a JSON patch: the client's own choice.
patched = core.patch_namespaced_service("s-0", "paged", {"spec": {"ports": [{"port": 81, "name": "b"}]}})
assert sorted(port.port for port in patched.spec.ports) == [80, 81], patched.spec.ports
patched = core.patch_namespaced_service("s-0", "paged", [{"op": "remove", "path": "/spec/ports/0"}])
assert len(patched.spec.ports) == 1, patched.spec.ports

# A patch for a version that is no longer the object's.
try:
    stale = {"metadata": {"resourceVersion": "1", "labels": {"a": "b"}}}
    core.patch_namespaced_service("s-0", "paged", stale)
    raise AssertionError("patched by a stale version")
except ApiException as error:
    assert error.status == 409 and json.loads(error.body)["reason"] == "Conflict", error.body

# A watch from a version long gone.
try:
    for _ in watch.Watch().stream(core.list_namespaced_service, "paged", resource_version="1", timeout_seconds=5):
        break
except ApiException as error:
    assert error.status == 410, error

endpoints = core.read_namespaced_endpoints("backend-service", "default")
addresses = [address.ip for subset in endpoints.subsets for address in subset.addresses]
assert sorted(addresses) == ["10.244.1.10", "10.244.2.15"], endpoints

gone = core.delete_collection_namespaced_service("paged")
assert core.list_namespaced_service("paged").items == [], gone
print("all as it should be")
