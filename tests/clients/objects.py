"""Services by the typed client: list, read, create, merge-patch, replace, delete, and each refusal as an ApiException."""

import json
import sys

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException


def refused(code, reason, call, *arguments, **options):
    """The Status of a call that must be refused."""
    try:
        call(*arguments, **options)
    except ApiException as error:
        assert error.status == code, (error.status, error.body)
        status = json.loads(error.body)
        assert (status["kind"], status["code"], status["reason"]) == ("Status", code, reason), status
        return status
    raise AssertionError(f"{call.__name__}{arguments} was not refused")


config.load_kube_config(sys.argv[1])
core = client.CoreV1Api()
discovery = client.DiscoveryV1Api()

assert client.VersionApi().get_code().git_version.startswith("v1.36.0+pollgate-")
names = [service.metadata.name for service in core.list_namespaced_service("default").items]
assert "backend-service" in names and names == sorted(names), names
assert core.list_service_for_all_namespaces(label_selector="app=nobody").items == []
pods = core.list_namespaced_pod("default", label_selector="app=backend,version=v1").items
assert [pod.status.pod_ip for pod in pods] == ["10.244.1.10", "10.244.2.15"], pods
slices = discovery.list_namespaced_endpoint_slice(
    "default", label_selector="kubernetes.io/service-name=backend-service"
).items
addresses = sorted(address for part in slices for endpoint in part.endpoints for address in endpoint.addresses)
assert addresses == ["10.244.1.10", "10.244.2.15"], slices

body = client.V1Service(
    metadata=client.V1ObjectMeta(name="typed", labels={"made-by": "python"}),
    spec=client.V1ServiceSpec(selector={"app": "backend"}, ports=[client.V1ServicePort(port=80, target_port="http")]),
)
created = core.create_namespaced_service("default", body)
assert created.spec.cluster_ip.startswith("10.96.") and created.metadata.uid, created
assert created.spec.ports[0].protocol == "TCP" and created.spec.session_affinity == "None", created
read = core.read_namespaced_service("typed", "default")
assert read.metadata.resource_version == created.metadata.resource_version
assert read.spec.ports[0].target_port == "http"

dry = core.create_namespaced_service(
    "default", client.V1Service(metadata=client.V1ObjectMeta(name="dry"), spec=body.spec), dry_run="All"
)
assert dry.metadata.name == "dry"
refused(404, "NotFound", core.read_namespaced_service, "dry", "default")

patched = core.patch_namespaced_service(
    "typed",
    "default",
    {"metadata": {"labels": {"made-by": None, "tier": "web"}}},
    _content_type="application/merge-patch+json",
)
assert patched.metadata.labels == {"tier": "web"}, patched.metadata.labels
assert patched.metadata.resource_version != created.metadata.resource_version

patched.spec.ports[0].port = 8080
replaced = core.replace_namespaced_service("typed", "default", patched)
assert replaced.spec.ports[0].port == 8080
# The one that is older than the last write.
refused(409, "Conflict", core.replace_namespaced_service, "typed", "default", patched)

refused(409, "AlreadyExists", core.create_namespaced_service, "default", body)
refused(404, "NotFound", core.read_namespaced_service, "nowhere", "default")
bad = client.V1Service(metadata=client.V1ObjectMeta(name="bad"), spec=client.V1ServiceSpec(ports=[client.V1ServicePort(port=0)]))
status = refused(422, "Invalid", core.create_namespaced_service, "default", bad)
assert status["details"]["causes"][0]["field"] == "spec.ports[0].port", status

deleted = core.delete_namespaced_service("typed", "default")
assert deleted.metadata.name == "typed"
refused(404, "NotFound", core.delete_namespaced_service, "typed", "default")

stranger = client.Configuration.get_default_copy()
stranger.refresh_api_key_hook = None
assert stranger.api_key, "the token goes by another way"
stranger.api_key = dict.fromkeys(stranger.api_key, "Bearer " + "0" * 64)
refused(401, "Unauthorized", client.CoreV1Api(client.ApiClient(stranger)).list_namespaced_service, "default")
print("all as it should be")
