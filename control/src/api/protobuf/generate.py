"""Writes messages.txt: the fields of the messages that the API reads and writes, one a line: number, JSON name, type.

The numbers and types are k8s-pb's, which prost generates from Kubernetes' descriptions; the JSON names are k8s-openapi's. Both
are read where cargo keeps their sources. Run it when one of them moves to another version of Kubernetes:

    python3 control/src/api/protobuf/generate.py > control/src/api/protobuf/messages.txt

The protobuf types do not say which fields are pointers in Go: POINTERS does, where it matters, for numbers and truth values of
which zero means something else than nothing.
"""

import re
import sys
from pathlib import Path

CRATES = Path.home() / ".cargo/registry/src"
PB = next(CRATES.glob("*/k8s-pb-0.9.0/src"))
OPENAPI = next(CRATES.glob("*/k8s-openapi-0.29.0/src/v1_35"))

CORE, DISCOVERY, META = "api/core/v1", "api/discovery/v1", "apimachinery/pkg/apis/meta/v1"
REVIEWS = [("authorization", "AccessReview"), ("authorization", "RulesReview"), ("authentication", "Review")]
ROOTS = [(CORE, kind) for kind in "Namespace Node Pod Service Endpoints ConfigMap Secret Event".split()]
ROOTS += [(DISCOVERY, "EndpointSlice")]
ROOTS += [(f"api/{group}/v1", f"SelfSubject{kind}") for group, kind in REVIEWS]
ROOTS += [(META, kind) for kind in "DeleteOptions Status ListMeta PartialObjectMetadata".split()]

# Values with a JSON of their own.
SPECIAL = {"Time", "MicroTime", "Quantity", "IntOrString", "FieldsV1", "RawExtension"}
SCALARS = {"string": "string", "int32": "int", "int64": "int", "bool": "bool", "bytes": "bytes"}

POINTERS = set("""
    *.optional *.defaultMode ConfigMap.immutable Secret.immutable
    ServiceSpec.allocateLoadBalancerNodePorts ClientIPConfig.timeoutSeconds
    PodSpec.terminationGracePeriodSeconds PodSpec.activeDeadlineSeconds PodSpec.automountServiceAccountToken
    PodSpec.shareProcessNamespace PodSpec.priority PodSpec.enableServiceLinks PodSpec.setHostnameAsFQDN PodSpec.hostUsers
    PodSecurityContext.* SecurityContext.* WindowsSecurityContextOptions.* Toleration.tolerationSeconds
    KeyToPath.mode DownwardAPIVolumeFile.mode ServiceAccountTokenProjection.expirationSeconds
    PodCertificateProjection.maxExpirationSeconds CSIVolumeSource.readOnly FCVolumeSource.lun AzureDiskVolumeSource.readOnly
    TopologySpreadConstraint.minDomains ContainerStatus.started Probe.terminationGracePeriodSeconds
    ObjectMeta.deletionGracePeriodSeconds OwnerReference.controller OwnerReference.blockOwnerDeletion
    DeleteOptions.gracePeriodSeconds DeleteOptions.orphanDependents
    DeleteOptions.ignoreStoreReadErrorWithClusterBreakingPotential ListMeta.remainingItemCount
    discovery.EndpointPort.port discovery.EndpointPort.name EndpointConditions.* NodeRuntimeHandlerFeatures.* NodeFeatures.*
    NodeSwapStatus.capacity
""".split())

FIELD = re.compile(r"#\[prost\(([^\]]*?)\)\]\s*pub (?:r#)?(\w+):\s*(.*?),\n(?=\s*(?:#|$|\}|//))", re.S)


def structs(package):
    """The messages of a package: name, and (field, attribute, type) of each field."""
    source = (PB / package / "mod.rs").read_text()
    found = {}
    for match in re.finditer(r"pub struct (\w+) \{(.*?)\n\}", source, re.S):
        lines = [line for line in match[2].split("\n") if not line.strip().startswith("///")]
        body = "\n".join(lines) + "\n"
        found[match[1]] = [(f[2], f[1], re.sub(r"\s+", "", f[3])) for f in FIELD.finditer(body)]
    return found


def json_names(package, name):
    """The JSON names of a type's fields; None for a type that OpenAPI does not have."""
    for path in (OPENAPI / package).glob("*.rs"):
        source = path.read_text()
        if re.search(rf"pub struct {name}\b", source):
            return re.findall(r'"(\S+)" => Field::Key_', source)
    return None


def camel(name):
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


def plain(name):
    return name.replace("_", "").lower()


def identity(package, name):
    return f"discovery.{name}" if (package, name) == (DISCOVERY, "EndpointPort") else name


def resolve(package, path):
    """The package and name of a Rust type, seen from a package."""
    for wrapper in ["::core::option::Option", "::prost::alloc::vec::Vec", "::prost::alloc::boxed::Box"]:
        path = re.sub(rf"^{wrapper}<(.*?),?>$", r"\1", path)
    segments, place = path.split("::"), package.split("/")
    while segments[0] == "super":
        place, segments = place[:-1], segments[1:]
    return "/".join(place + segments[:-1]), segments[-1]


class Generator:
    def __init__(self):
        self.packages, self.messages, self.inherited, self.queue = {}, {}, {}, list(ROOTS)

    def run(self):
        while self.queue:
            package, name = self.queue.pop(0)
            if identity(package, name) not in self.messages and name not in SPECIAL:
                self.message(package, name)

    def message(self, package, name):
        if package not in self.packages:
            self.packages[package] = structs(package)
        names = json_names(package, name) or self.inherited.get(name)
        lines = self.messages[identity(package, name)] = []
        for field, attribute, rust in self.packages[package][name]:
            number = re.search(r'tag = "(\d+)"', attribute)[1]
            known = [camel(field)] if names is None else [each for each in names if plain(each) == plain(field)]
            kind, where = self.kind(package, attribute, rust)
            if known:
                lines.append(f"{number} {known[0]} {self.suffixed(identity(package, name), known[0], kind, attribute)}")
            elif where is not None and "repeated" not in attribute:
                # A Go struct that is embedded: in JSON its fields stand in the object itself.
                lines.append(f"{number} * {kind}")
                if json_names(*where) is None:
                    self.inherited[where[1]] = names
            else:
                sys.exit(f"{name}.{field} is not in OpenAPI")

    def kind(self, package, attribute, rust):
        first = re.match(r"\w+", attribute)[0]
        if first in SCALARS:
            return SCALARS[first], None
        if first == "message":
            where = resolve(package, rust)
            self.queue.append(where)
            return identity(*where), where
        values = re.search(r"<::prost::alloc::string::String,(.*?),?>$", rust)[1]
        if values.endswith("String"):
            return "map string", None
        if "Vec<u8>" in values:
            return "map bytes", None
        where = resolve(package, values)
        self.queue.append(where)
        return f"map {identity(*where)}", None

    @staticmethod
    def suffixed(message, field, kind, attribute):
        if "repeated" in attribute:
            return f"list {kind}"
        pointer = {f"{message}.{field}", f"{message}.*", f"*.{field}"} & POINTERS
        return f"{kind}?" if pointer and kind in SCALARS.values() else kind


generator = Generator()
generator.run()
print("# Made by generate.py: message, then number, JSON name (* for an embedded message) and type of each field.")
for name, lines in sorted(generator.messages.items()):
    print(name)
    for line in lines:
        print(f"  {line}")
