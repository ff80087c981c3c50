"""What a container may do: nothing that it need not; and who reaches whom."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.deployment.sources import (
    DOCKER,
    OVERLAYS,
    ROOT,
    Manifest,
    compose,
    configuration,
    containers,
    dockerfile,
    manifests,
    of_kind,
    pod,
    the,
)

EVERYWHERE = ["overlays/complete", "overlays/shared"]


def _workloads(overlay: str) -> list[Manifest]:
    return [manifest for manifest in manifests(overlay) if pod(manifest) is not None]


def _addresses(overlay: str) -> list[tuple[str, int]]:
    """Return host and port of everything that the server asks."""
    config = yaml.safe_load(configuration(overlay))
    backends = config["backends"]
    urls = [url for name in ("embedding", "generative", "reranking") for url in backends[name]["urls"]]
    urls += [backends["qdrant"]["url"], *filter(None, [config.get("redis", {}).get("url")])]
    parts = [urlsplit(url[url.index(":-") + 2 : -1] if url.startswith("$") else url) for url in urls if "-}" not in url]
    return [(part.hostname or "", part.port or 0) for part in parts]


def _matches(selector: dict[str, Any], manifest: Manifest) -> bool:
    return bool(selector["matchLabels"].items() <= pod(manifest)["metadata"]["labels"].items())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_keep_the_restricted_profile(overlay: str) -> None:
    for workload in _workloads(overlay):
        spec = pod(workload)["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert not [volume for volume in spec.get("volumes", ()) if "hostPath" in volume]
        for container in containers(workload):
            allowed = container["securityContext"]
            assert allowed["allowPrivilegeEscalation"] is False
            assert allowed["readOnlyRootFilesystem"] is True
            assert allowed["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            assert {"livenessProbe", "readinessProbe"} < set(container)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_stands_in_a_manifest(overlay: str) -> None:
    assert of_kind(manifests(overlay), "Secret") == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_selects_pods_finds_those_of_one_workload(overlay: str) -> None:
    found = manifests(overlay)
    for workload in _workloads(overlay):
        assert _matches(workload["spec"]["selector"], workload)
    for each in (*of_kind(found, "Service"), *of_kind(found, "PodDisruptionBudget")):
        selector = each["spec"]["selector"]
        chosen = [
            one
            for one in _workloads(overlay)
            if _matches(selector if "matchLabels" in selector else {"matchLabels": selector}, one)
        ]
        assert len(chosen) == 1, each["metadata"]["name"]
        ports = {port["name"] for container in containers(chosen[0]) for port in container["ports"]}
        assert {port["targetPort"] for port in each["spec"].get("ports", ())} <= ports


@pytest.mark.parametrize("overlay", EVERYWHERE)
def test_each_backend_of_the_configuration_is_there_and_both_sides_let_the_call_through(overlay: str) -> None:
    found = manifests(overlay)
    server = the(found, "Deployment")
    egress = the(found, "NetworkPolicy")["spec"]["egress"]
    for host, port in _addresses(overlay):
        name = host.rpartition(".")[2]
        (service,) = (each for each in of_kind(found, "Service") if each["metadata"]["name"] == name)
        assert port in [each["port"] for each in service["spec"]["ports"]]
        (backend,) = (one for one in _workloads(overlay) if _matches({"matchLabels": service["spec"]["selector"]}, one))
        named = [
            each["name"]
            for container in containers(backend)
            for each in container["ports"]
            if each["containerPort"] == port
        ]
        assert _lets(egress, "to", backend, {port})
        (policy,) = (each for each in of_kind(found, "NetworkPolicy") if _matches(each["spec"]["podSelector"], backend))
        assert _lets(policy["spec"]["ingress"], "from", server, {port, *named})
        if "." in host:
            assert int(host.partition(".")[0].rpartition("-")[2]) < backend["spec"]["replicas"]


def _lets(rules: list[Any], side: str, manifest: Manifest, ports: set[object]) -> bool:
    """Whether a rule lets through what goes to, or comes from, these pods."""
    return any(
        ports & {port["port"] for port in rule["ports"]}
        and any("namespaceSelector" not in peer and _matches(peer["podSelector"], manifest) for peer in rule[side])
        for rule in rules
    )


def test_only_namespaces_that_watch_reach_the_operators_address() -> None:
    rules = the(manifests("base"), "NetworkPolicy")["spec"]["ingress"]
    (watching,) = (rule for rule in rules if {"protocol": "TCP", "port": 8701} in rule["ports"])
    assert watching["ports"] == [{"protocol": "TCP", "port": 8701}]
    assert watching["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


@pytest.mark.parametrize("overlay", EVERYWHERE)
def test_names_are_resolved_by_the_clusters_own_servers_also_through_a_nodes_cache(overlay: str) -> None:
    for policy in of_kind(manifests(overlay), "NetworkPolicy"):
        for rule in policy["spec"]["egress"]:
            if {53} & {port["port"] for port in rule["ports"]}:
                assert {port["port"] for port in rule["ports"]} == {53}
                assert rule["to"][0]["podSelector"] == {"matchLabels": {"k8s-app": "kube-dns"}}
                networks = [ip_network(peer["ipBlock"]["cidr"]) for peer in rule["to"][1:]]
                assert any(ip_address("169.254.20.10") in network for network in networks)
                assert all(network.is_private for network in networks)


def test_traces_reach_a_collector_beside_the_monitoring() -> None:
    rules = the(manifests("base"), "NetworkPolicy")["spec"]["egress"]
    (collector,) = (rule for rule in rules if {"protocol": "TCP", "port": 4318} in rule["ports"])
    assert collector["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


def test_the_image_needs_no_shell_and_is_no_roots() -> None:
    for step in (step for stage in dockerfile() for step in stage):
        if step.word in {"RUN", "CMD", "ENTRYPOINT"}:
            assert step.arguments[0] not in {"sh", "bash", "/bin/sh"}
    words = [step.word for step in dockerfile()[-1]]
    assert "RUN" not in words[words.index("USER") :]


def test_containers_of_compose_may_do_nothing_that_they_need_not() -> None:
    for name, service in compose()["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert name == "api" or int(service["user"].partition(":")[0]) > 0  # the API's is the image's own
        assert {"memory", "pids"} == set(service["deploy"]["resources"]["limits"]), name
        assert name == "api" or "healthcheck" in service  # as well
        assert not {"cap_add", "privileged", "network_mode", "pid", "ipc"} & set(service), name


def test_compose_publishes_the_api_to_this_host_alone() -> None:
    services = compose()["services"]
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "api": ["127.0.0.1:8700:8700"],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    assert {name for name, service in services.items() if "published" in service["networks"]} == {"api", "grafana"}
    assert {name for name, network in compose()["networks"].items() if not network.get("internal")} == {"published"}


def test_compose_starts_the_api_behind_what_it_asks_and_in_its_networks() -> None:
    services = compose()["services"]
    api = services["api"]
    asked = _addresses("docker")
    assert {host for host, _ in asked} == set(api["depends_on"])
    assert {each["condition"] for each in api["depends_on"].values()} == {"service_healthy"}
    for host, port in asked:
        assert set(services[host]["networks"]) <= set(api["networks"])
        assert str(port) in str(services[host].get("command", "")) or f"/{port}" in str(services[host]["healthcheck"])


def test_compose_mounts_what_is_there_and_its_secrets_are_files() -> None:
    found = compose()
    bound = [
        volume
        for service in found["services"].values()
        for volume in service.get("volumes", ())
        if isinstance(volume, dict)
    ]
    assert all(volume["read_only"] for volume in bound)
    assert all((DOCKER / each["source"]).exists() for each in bound if each["source"] != "./models")
    used = {secret for service in found["services"].values() for secret in service.get("secrets", ())}
    assert used == set(found["secrets"])
    assert {secret["file"] for secret in found["secrets"].values()} == {f"./secrets/{name}" for name in used}
    for ignoring, line in ((".gitignore", "/etc/docker/secrets/"), ("MANIFEST.in", "prune etc/docker/secrets")):
        assert line in (ROOT / ignoring).read_text(encoding="utf-8").splitlines()


def test_grafana_of_compose_finds_what_the_dashboards_ask() -> None:
    (ours,) = yaml.safe_load((DOCKER / "datasource.yaml").read_text(encoding="utf-8"))["datasources"]
    provisioned = DOCKER.parent / "grafana/provisioning/datasources/hartonomous.yml"
    (theirs,) = yaml.safe_load(provisioned.read_text(encoding="utf-8"))["datasources"]
    assert (ours["uid"], ours["type"]) == (theirs["uid"], theirs["type"])
    assert ours["url"] == "http://prometheus:9090"
