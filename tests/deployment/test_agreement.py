"""What the image, the compose file, the manifests and the units say of the server, and what the code says.

Paths, ports, users, files, versions, and how long a stop takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hartonomous import __version__
from hartonomous.__main__ import main
from hartonomous.app import OPERATIONS
from hartonomous.cli.serve import DEFAULT_CONFIG
from hartonomous.config import Config
from hartonomous.configfile import parse
from tests.deployment.sources import (
    DOCKER,
    OVERLAYS,
    ROOT,
    compose,
    configuration,
    containers,
    dockerfile,
    labels,
    manifests,
    only,
    pod,
    seconds,
    the,
    units,
)
from tests.service.keyed import PEPPER, Key

WHOEVER = {operation.path for operation in OPERATIONS if operation.method == "GET" and operation.guard.scope is None}
# What README.rst says that a stop may take beside both settings.
LAST_WORDS_S = 60
PLACES = ("docker", *OVERLAYS)
OPERATOR = Key("admin", ("admin",))


@pytest.fixture
def _secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets like an operator's, where the configuration looks for them."""
    (tmp_path / "pepper").write_text(PEPPER, encoding="utf-8")
    (tmp_path / "keys").write_text(json.dumps([OPERATOR.entry]), encoding="utf-8")  # which is YAML, too
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))


def _config(place: str, folder: Path) -> Config:
    return parse(configuration(place), {"CREDENTIALS_DIRECTORY": str(folder)}, place)


def _server() -> Any:
    """The server's container in the cluster."""
    (container,) = containers(the(manifests("base"), "Deployment"))
    return container


@pytest.mark.usefixtures("_secrets")
@pytest.mark.parametrize("place", PLACES)
def test_each_configuration_is_right_as_soon_as_there_are_secrets(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "hartonomous.yaml"
    file.write_text(configuration(place), encoding="utf-8")
    assert main(["check", str(file)]) == 0, capsys.readouterr().err
    (tmp_path / "keys").write_text("[]", encoding="utf-8")
    assert main(["check", str(file)]) == 2
    assert "without keys only loopback addresses can be served" in capsys.readouterr().err
    (tmp_path / "pepper").unlink()
    assert main(["check", str(file)]) == 2


@pytest.mark.usefixtures("_secrets")
@pytest.mark.parametrize("place", PLACES)
def test_the_ports_are_the_usual_ones_and_reached_from_outside(place: str, tmp_path: Path) -> None:
    server = _config(place, tmp_path).server
    assert (server.host, server.port) == ("0.0.0.0", 8700)
    assert server.admin == "0.0.0.0:8701"
    assert not server.is_loopback


def test_the_image_says_its_ports_and_asks_its_health_there() -> None:
    assert only("EXPOSE").rest.split() == ["8700", "8701"]
    check = only("HEALTHCHECK").rest.partition("CMD ")[2]
    found = re.search(r"HTTPConnection\('127\.0\.0\.1', (\d+),.*'GET', '([^']+)'", check)
    assert found is not None
    assert found[1] == "8700"
    assert found[2] in WHOEVER


def test_the_units_have_the_same_ports() -> None:
    socket = (ROOT / "systemd/hartonomous.socket").read_text(encoding="utf-8")
    assert re.findall(r"^ListenStream=(.*)$", socket, re.MULTILINE) == ["127.0.0.1:8700"]
    assert "HARTONOMOUS_ADMIN=127.0.0.1:8701" in units()["hartonomous.service"]["Environment"]


def test_probes_ask_for_paths_that_need_no_key() -> None:
    ports = {port["name"]: port["containerPort"] for port in _server()["ports"]}
    assert ports == {"api": 8700, "operator": 8701}
    asked = {kind: _server()[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {kind: get["path"] for kind, get in asked.items()} == {
        "startup": "/health",
        "liveness": "/health",
        "readiness": "/ready",
    }
    assert {get["path"] for get in asked.values()} <= WHOEVER
    assert {ports[get["port"]] for get in asked.values()} == {8700}


def test_prometheus_asks_the_operators_address_with_a_key() -> None:
    found = manifests("overlays/complete")
    (endpoint,) = the(found, "ServiceMonitor")["spec"]["endpoints"]
    service = the(found, "Service", "hartonomous-operator")
    chosen = the(found, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert chosen.items() <= service["metadata"]["labels"].items()
    assert not chosen.items() <= the(found, "Service")["metadata"]["labels"].items()
    (port,) = service["spec"]["ports"]
    assert (endpoint["port"], port["port"], port["targetPort"]) == (port["name"], 8701, "operator")
    (metrics,) = (operation for operation in OPERATIONS if operation.path == endpoint["path"])
    assert metrics.guard.scope == "metrics"
    assert endpoint["authorization"]["type"] == "Bearer"
    (scraped,) = yaml.safe_load((DOCKER / "prometheus.yaml").read_text(encoding="utf-8"))["scrape_configs"]
    assert scraped["static_configs"] == [{"targets": ["api:8701"]}]


def test_the_user_is_the_same_everywhere_and_no_name() -> None:
    user, _, group = only("USER").rest.partition(":")
    made = " ".join(step.rest for step in dockerfile()[-1] if step.word == "RUN")
    assert f'"--uid", "{user}", "--gid", "{group}"' in made
    assert f'"--owner", "{user}", "--group", "{group}"' in made
    context = pod(the(manifests("base"), "Deployment"))["spec"]["securityContext"]
    assert [context[name] for name in ("runAsUser", "runAsGroup", "fsGroup")] == [int(user), int(group), int(group)]
    assert {name for _, settings in _servers() for name in settings["User"]} == {"hartonomous"}


def _servers() -> Iterator[tuple[str, dict[str, list[str]]]]:
    """The units that serve the API."""
    for unit, settings in units().items():
        if " serve " in settings["ExecStart"][0]:
            yield unit, settings


@pytest.mark.usefixtures("_secrets")
def test_files_are_where_the_server_looks_for_them(tmp_path: Path) -> None:
    copied = [step.rest.split()[-1] for step in dockerfile()[-1] if step.word == "COPY"]
    assert str(DEFAULT_CONFIG) in copied
    assert (only("ENTRYPOINT").arguments, only("CMD").arguments) == (["hartonomous"], ["serve"])
    server = _server()
    assert server["args"] == ["serve", "--config", str(DEFAULT_CONFIG)]
    mounts = {mount["mountPath"]: mount for mount in server["volumeMounts"]}
    assert mounts[str(DEFAULT_CONFIG.parent)]["readOnly"]
    assert "/tmp" in mounts
    for place in PLACES:
        text = configuration(place)
        secrets = set(re.findall(r"\$\{CREDENTIALS_DIRECTORY:-([^}]+)\}", text))
        assert secrets == {"/run/secrets" if place == "docker" else "/run/secrets/hartonomous"}
        assert place == "docker" or secrets < set(mounts)
    for unit, settings in _servers():
        assert f"--config {DEFAULT_CONFIG}" in settings["ExecStart"][0], unit


@pytest.mark.usefixtures("_secrets")
def test_the_audit_trail_is_where_it_lasts_and_fills_no_pod(tmp_path: Path) -> None:
    assert f"audit:{_config('docker', tmp_path).audit.directory}" in compose()["services"]["api"]["volumes"]
    for overlay in OVERLAYS:
        assert _config(overlay, tmp_path).audit.directory is None
        given = {"CREDENTIALS_DIRECTORY": str(tmp_path), "AUDIT_DIRECTORY": "/var/log/hartonomous"}
        assert parse(configuration(overlay), given).audit.directory == Path("/var/log/hartonomous")
        volumes = pod(the(manifests(overlay), "Deployment"))["spec"]["volumes"]
        assert [volume["name"] for volume in volumes if "emptyDir" in volume] == ["temporary"]


@pytest.mark.usefixtures("_secrets")
def test_a_stop_has_the_time_that_it_takes(tmp_path: Path) -> None:
    def takes(config: Config) -> float:
        return config.server.notice_s + config.server.drain_s + LAST_WORDS_S

    assert "60 s more than both together" in (ROOT / "README.rst").read_text(encoding="utf-8")
    assert only("STOPSIGNAL").rest == "SIGTERM"
    assert seconds(compose()["services"]["api"]["stop_grace_period"]) >= takes(_config("docker", tmp_path))
    for overlay in OVERLAYS:
        grace = pod(the(manifests(overlay), "Deployment"))["spec"]["terminationGracePeriodSeconds"]
        config = _config(overlay, tmp_path)
        assert grace >= takes(config)
        assert config.server.notice_s >= 2 * _server()["readinessProbe"]["periodSeconds"]
    usual = parse((ROOT / "etc/hartonomous.yaml").read_text(encoding="utf-8"), {})
    for unit, settings in _servers():
        assert seconds(settings["TimeoutStopSec"][0]) >= takes(usual), unit


@pytest.mark.usefixtures("_secrets")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_server_knows_how_many_there_can_be(overlay: str, tmp_path: Path) -> None:
    scaler = the(manifests(overlay), "HorizontalPodAutoscaler")["spec"]
    assert scaler["maxReplicas"] == _config(overlay, tmp_path).server.processes
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "hartonomous"}
    assert "replicas" not in the(manifests(overlay), "Deployment")["spec"]


def test_the_server_is_the_first_process_of_its_container_which_ends_with_it() -> None:
    """Behind another first process it could not know that nothing may follow it there."""
    assert not compose()["services"]["api"]["init"]
    assert "--init" not in (ROOT / "README.rst").read_text(encoding="utf-8")


def test_images_are_pinned_and_the_same_everywhere() -> None:
    used = [service["image"] for service in compose()["services"].values()]
    used += [each["image"] for overlay in OVERLAYS for manifest in manifests(overlay) for each in containers(manifest)]
    tags: dict[str, set[str]] = {}
    for image in used:
        name, _, tag = image.rpartition(":")
        tags.setdefault(name, set()).add(tag)
    assert {name for name, found in tags.items() if len(found) != 1} == set()
    assert all(re.search(r"\d", tag) and "latest" not in tag for found in tags.values() for tag in found)
    assert tags["hartonomous"] == {__version__}


def test_the_image_has_the_version_of_the_code_and_a_python_that_it_supports() -> None:
    assert labels()["org.opencontainers.image.version"] == __version__
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    assert f'"hartonomous=={__version__}"' in text
    assert f"hartonomous:{__version__} ." in text
    bases = {stage[0].rest.partition(" AS ")[0] for stage in dockerfile()}
    (version,) = (re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-\w+", base) for base in bases)
    assert version is not None
    assert f"Programming Language :: Python :: {version[1]}" in (ROOT / "setup.cfg").read_text(encoding="utf-8")


def test_what_is_copied_into_the_image_is_there_and_let_in() -> None:
    lines = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source
        for stage in dockerfile()
        for step in stage
        if step.word == "COPY" and "--from" not in step.rest
        for source in step.rest.split()[:-1]
    }
    assert "ARG LOCK=server" in [f"{step.word} {step.rest}" for step in dockerfile()[0]]
    copied = {source.replace("$LOCK", lock) for source in copied for lock in ("server", "otlp")}
    assert copied == let_in
    assert all((ROOT / source).exists() for source in copied)
    assert "*" in lines
