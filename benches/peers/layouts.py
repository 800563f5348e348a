"""Services as kube-proxy lays them out, for iptables-restore and nft.

The chains, their names' form, their order and their rules are those of kube-proxy's iptables and nftables modes for ClusterIP
Services with a cluster CIDR, without comments (which it leaves out itself in large clusters).
"""

import base64
import hashlib

from lab import PODS, PORT, TARGET_PORT

MASQUERADE = "0x4000"


def _name(prefix, *parts):
    digest = hashlib.sha256("".join(parts).encode()).digest()
    return prefix + base64.b32encode(digest).decode()[:16]


def _svc(service):
    return _name("KUBE-SVC-", service.name, service.protocol)


def _sep(service, endpoint):
    return _name("KUBE-SEP-", service.name, service.protocol, endpoint)


def _dispatch(services):
    for s in services:
        yield f"-A KUBE-SERVICES -d {s.address}/32 -p {s.protocol} -m {s.protocol} --dport {PORT} -j {_svc(s)}"
    yield "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"


def _iptables_service(s):
    match = f"-d {s.address}/32 -p {s.protocol} -m {s.protocol} --dport {PORT}"
    yield f"-A {_svc(s)} ! -s {PODS} {match} -j KUBE-MARK-MASQ"
    left = len(s.endpoints)
    for endpoint in s.endpoints:
        chance = f"-m statistic --mode random --probability {1 / left:0.10f} " if left > 1 else ""
        yield f"-A {_svc(s)} {chance}-j {_sep(s, endpoint)}"
        left -= 1
    for endpoint in s.endpoints:
        yield f"-A {_sep(s, endpoint)} -s {endpoint}/32 -j KUBE-MARK-MASQ"
        yield (
            f"-A {_sep(s, endpoint)} -p {s.protocol} -m {s.protocol} "
            f"-j DNAT --to-destination {endpoint}:{TARGET_PORT}"
        )


def iptables(services):
    """Both tables, complete."""
    lines = [
        "*filter",
        *(f":{chain} - [0:0]" for chain in ("KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD")),
        *(f":{chain} - [0:0]" for chain in ("KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL", "KUBE-FIREWALL")),
        "-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL",
        "-A INPUT -j KUBE-NODEPORTS",
        "-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES",
        "-A INPUT -j KUBE-FIREWALL",
        "-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL",
        "-A FORWARD -j KUBE-FORWARD",
        "-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES",
        "-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES",
        "-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL",
        "-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES",
        "-A OUTPUT -j KUBE-FIREWALL",
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
        f"-A KUBE-FORWARD -m mark --mark {MASQUERADE}/{MASQUERADE} -j ACCEPT",
        "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "COMMIT",
        "*nat",
        *(f":{chain} - [0:0]" for chain in ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ")),
        *(f":{_svc(s)} - [0:0]" for s in services),
        *(f":{_sep(s, endpoint)} - [0:0]" for s in services for endpoint in s.endpoints),
        "-A PREROUTING -j KUBE-SERVICES",
        "-A OUTPUT -j KUBE-SERVICES",
        "-A POSTROUTING -j KUBE-POSTROUTING",
        f"-A KUBE-POSTROUTING -m mark ! --mark {MASQUERADE}/{MASQUERADE} -j RETURN",
        f"-A KUBE-POSTROUTING -j MARK --xor-mark {MASQUERADE}",
        "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
        f"-A KUBE-MARK-MASQ -j MARK --or-mark {MASQUERADE}",
        *(line for s in services for line in _iptables_service(s)),
        *_dispatch(services),
        "COMMIT",
    ]
    return "\n".join(lines) + "\n"


def iptables_change(services, changed, gone):
    """A partial sync, for `iptables-restore --noflush`: rewrites the dispatch, and of the Services only the changed one."""
    lines = [
        "*nat",
        ":KUBE-SERVICES - [0:0]",
        f":{_svc(changed)} - [0:0]",
        *(f":{_sep(changed, endpoint)} - [0:0]" for endpoint in (*changed.endpoints, gone)),
        *_iptables_service(changed),
        *_dispatch(services),
        f"-X {_sep(changed, gone)}",
        "COMMIT",
    ]
    return "\n".join(lines) + "\n"


def _chain(s):
    return f"service-{_name('', s.name, s.protocol)[:8]}-default/{s.name}/{s.protocol}/p{PORT}"


def _endpoint_chain(s, endpoint):
    return f"endpoint-{_name('', s.name, s.protocol, endpoint)[:8]}-default/{s.name}/{s.protocol}/p{PORT}__{endpoint}/{TARGET_PORT}"


def _nft_endpoint(s, endpoint):
    chain = _endpoint_chain(s, endpoint)
    yield f"add chain ip kube-proxy {chain}"
    yield f"flush chain ip kube-proxy {chain}"
    yield f"add rule ip kube-proxy {chain} ip saddr {endpoint} jump mark-for-masquerade"
    yield f"add rule ip kube-proxy {chain} meta l4proto {s.protocol} dnat to {endpoint}:{TARGET_PORT}"


def _nft_service(s):
    chain = _chain(s)
    yield f"add chain ip kube-proxy {chain}"
    yield f"flush chain ip kube-proxy {chain}"
    yield (
        f"add rule ip kube-proxy {chain} ip daddr {s.address} {s.protocol} dport {PORT} "
        f"ip saddr != {PODS} jump mark-for-masquerade"
    )
    spread = ", ".join(f"{at} : goto {_endpoint_chain(s, endpoint)}" for at, endpoint in enumerate(s.endpoints))
    yield f"add rule ip kube-proxy {chain} numgen random mod {len(s.endpoints)} vmap {{ {spread} }}"


NFT_BASE = f"""
add table ip kube-proxy
add set ip kube-proxy cluster-ips {{ type ipv4_addr ; }}
add set ip kube-proxy nodeport-ips {{ type ipv4_addr ; }}
add map ip kube-proxy no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict ; }}
add map ip kube-proxy no-endpoint-nodeports {{ type inet_proto . inet_service : verdict ; }}
add map ip kube-proxy firewall-ips {{ type ipv4_addr . inet_proto . inet_service : verdict ; }}
add map ip kube-proxy service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict ; }}
add map ip kube-proxy service-nodeports {{ type inet_proto . inet_service : verdict ; }}
add chain ip kube-proxy mark-for-masquerade
add rule ip kube-proxy mark-for-masquerade mark set mark or {MASQUERADE}
add chain ip kube-proxy masquerading
add rule ip kube-proxy masquerading mark and {MASQUERADE} == 0 return
add rule ip kube-proxy masquerading mark set mark xor {MASQUERADE}
add rule ip kube-proxy masquerading masquerade fully-random
add chain ip kube-proxy services
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
add rule ip kube-proxy services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
add chain ip kube-proxy service-endpoints-check
add rule ip kube-proxy service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services
add chain ip kube-proxy nodeport-endpoints-check
add rule ip kube-proxy nodeport-endpoints-check ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
add chain ip kube-proxy firewall-check
add rule ip kube-proxy firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips
add chain ip kube-proxy cluster-ips-check
add rule ip kube-proxy cluster-ips-check ip daddr @cluster-ips reject
add chain ip kube-proxy filter-prerouting {{ type filter hook prerouting priority -110 ; }}
add rule ip kube-proxy filter-prerouting ct state new jump firewall-check
add chain ip kube-proxy filter-input {{ type filter hook input priority -110 ; }}
add rule ip kube-proxy filter-input ct state new jump nodeport-endpoints-check
add rule ip kube-proxy filter-input ct state new jump service-endpoints-check
add chain ip kube-proxy filter-forward {{ type filter hook forward priority -110 ; }}
add rule ip kube-proxy filter-forward ct state new jump service-endpoints-check
add rule ip kube-proxy filter-forward ct state new jump cluster-ips-check
add chain ip kube-proxy filter-output {{ type filter hook output priority -110 ; }}
add rule ip kube-proxy filter-output ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output ct state new jump firewall-check
add chain ip kube-proxy nat-prerouting {{ type nat hook prerouting priority -100 ; }}
add rule ip kube-proxy nat-prerouting jump services
add chain ip kube-proxy nat-output {{ type nat hook output priority -100 ; }}
add rule ip kube-proxy nat-output jump services
add chain ip kube-proxy nat-postrouting {{ type nat hook postrouting priority 100 ; }}
add rule ip kube-proxy nat-postrouting jump masquerading
"""


def nftables(services):
    """The complete table."""
    lines = [NFT_BASE]
    for s in services:
        for endpoint in s.endpoints:
            lines.extend(_nft_endpoint(s, endpoint))
        lines.extend(_nft_service(s))
        lines.append(f"add element ip kube-proxy cluster-ips {{ {s.address} }}")
        lines.append(
            f"add element ip kube-proxy service-ips {{ {s.address} . {s.protocol} . {PORT} : goto {_chain(s)} }}"
        )
    return "\n".join(lines) + "\n"


def nftables_change(changed, gone):
    """One transaction with only the changes for the changed Service."""
    lines = [*_nft_endpoint(changed, changed.endpoints[-1]), *_nft_service(changed)]
    chain = _endpoint_chain(changed, gone)
    lines += [f"flush chain ip kube-proxy {chain}", f"delete chain ip kube-proxy {chain}"]
    return "\n".join(lines) + "\n"


def manifest(services):
    """The same for pollgate: Services without selectors, and their EndpointSlices."""
    items = []
    for s in services:
        protocol = s.protocol.upper()
        items.append({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": s.name},
            "spec": {"clusterIP": s.address, "ports": [{"protocol": protocol, "port": PORT, "targetPort": TARGET_PORT}]},
        })
        items.append(slice_of(s))
    return {"apiVersion": "v1", "kind": "List", "items": items}


def slice_of(service):
    """The EndpointSlice of a Service."""
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": service.name, "labels": {"kubernetes.io/service-name": service.name}},
        "ports": [{"protocol": service.protocol.upper(), "port": TARGET_PORT}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in service.endpoints],
    }
