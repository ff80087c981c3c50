"""Manifests, the compose file and the Dockerfile against the schemas and rules of those who read them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deployment.sources import DOCKER, KUBERNETES, OVERLAYS, Manifest, manifests, of_kind

BIN = Path(sys.executable).parent
# The oldest that is still looked after, and the newest that there is a schema for.
VERSIONS = ("1.31", "1.37")
# What of its definition by the Prometheus operator is used here, and how.
SERVICE_MONITOR = {
    "type": "object",
    "required": ["selector", "endpoints"],
    "additionalProperties": False,
    "properties": {
        "selector": {"type": "object", "properties": {"matchLabels": {}}, "additionalProperties": False},
        "endpoints": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "port": {"type": "string"},
                    "path": {"type": "string"},
                    "scheme": {"enum": ["http", "https"]},
                    "interval": {"pattern": "^[0-9]+s$"},
                    "scrapeTimeout": {"pattern": "^[0-9]+s$"},
                    "authorization": {
                        "type": "object",
                        "required": ["credentials"],
                        "additionalProperties": False,
                        "properties": {
                            "type": {"const": "Bearer"},
                            "credentials": {
                                "type": "object",
                                "required": ["name", "key"],
                                "additionalProperties": False,
                                "properties": {"name": {"type": "string"}, "key": {"type": "string"}},
                            },
                        },
                    },
                },
            },
        },
    },
}


def _check(found: list[Manifest], version: str) -> None:
    for manifest in found:
        if manifest["kind"] == "ServiceMonitor":
            assert manifest["apiVersion"] == "monitoring.coreos.com/v1"
            jsonschema.Draft202012Validator(SERVICE_MONITOR).validate(manifest["spec"])
        else:
            kubernetes_validate.validate(manifest, version, strict=True)


def _run(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_knows_every_field(overlay: str, version: str) -> None:
    _check(manifests(overlay), version)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    (deployment,) = of_kind(manifests("base"), "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["readOnlyRoot"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="readOnlyRoot"):
        _check([deployment], VERSIONS[-1])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_makes_the_same_of_them(overlay: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    made = list(yaml.safe_load_all(_run("kubectl", "kustomize", KUBERNETES / overlay)))
    _check(made, VERSIONS[-1])

    def names(found: list[Manifest]) -> list[tuple[str, str]]:
        plain = (
            (each["kind"], re.sub(r"^(hartonomous)-[a-z0-9]{10}$", r"\1", each["metadata"]["name"])) for each in found
        )
        return sorted(plain)

    def images(found: list[Manifest]) -> list[str]:
        return sorted(re.findall(r"image: (\S+)", yaml.safe_dump_all(found)))

    ours = manifests(overlay)
    assert names(made) == names(ours)
    assert images(made) == images(ours)
    assert {each["metadata"]["namespace"] for each in made} == {"hartonomous"}


def test_every_manifest_belongs_to_an_overlay() -> None:
    listed = {path.resolve() for path in KUBERNETES.rglob("kustomization.yaml")}
    for kustomization in list(listed):
        made = yaml.safe_load(kustomization.read_text(encoding="utf-8"))
        listed |= {(kustomization.parent / name).resolve() for name in made.get("resources", ())}
        listed |= {(kustomization.parent / f).resolve() for g in made.get("configMapGenerator", ()) for f in g["files"]}
    assert {path for path in KUBERNETES.rglob("*") if path.is_file()} <= listed


def test_compose_knows_every_field() -> None:
    _run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml")


def test_a_field_that_compose_does_not_know_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    wrong.write_text(text.replace("    stop_grace_period:", "    stop_grace:"), encoding="utf-8")
    with pytest.raises(AssertionError, match="stop_grace"):
        _run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", wrong)


def test_the_dockerfile_has_no_fault_that_hadolint_finds() -> None:
    # DL3059: steps of one command each need no shell.
    _run(BIN / "hadolint", "--ignore", "DL3059", DOCKER / "Dockerfile")


def test_prometheus_takes_the_configuration_of_compose(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    text = (DOCKER / "prometheus.yaml").read_text(encoding="utf-8")
    rules = (DOCKER.parent / "prometheus").resolve()
    (tmp_path / "key").write_text("a key", encoding="utf-8")
    text = text.replace("/etc/prometheus/rules", str(rules)).replace("/run/secrets/metrics_key", str(tmp_path / "key"))
    (tmp_path / "prometheus.yaml").write_text(text, encoding="utf-8")
    _run("promtool", "check", "config", tmp_path / "prometheus.yaml")
