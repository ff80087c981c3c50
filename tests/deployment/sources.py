"""What is read of `etc/docker`, `etc/kubernetes` and `systemd`, as the tests hold it against the code.

Manifests are put together as Kustomize does it, as far as they use it: resources, components, images, replicas and
files of ConfigMaps. That needs no program.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "etc/docker"
KUBERNETES = ROOT / "etc/kubernetes"
OVERLAYS = ("base", "overlays/complete", "overlays/shared")

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """An instruction of a Dockerfile."""

    word: str
    rest: str

    @property
    def arguments(self) -> list[str]:
        """What stands in JSON form behind the instruction, or behind its options."""
        found: list[str] = json.loads(self.rest[self.rest.index("[") :])
        return found


def dockerfile() -> list[list[Step]]:
    """Return the instructions of each stage."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    stages: list[list[Step]] = []
    for line in filter(None, re.sub(r"\\\n\s*", "", text).splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages.append([])
        stages[-1].append(Step(word, rest.strip()))
    return stages


def only(word: str) -> Step:
    """Return the one instruction of this kind in the last stage."""
    (found,) = (step for step in dockerfile()[-1] if step.word == word)
    return found


def labels() -> dict[str, str]:
    """Return the image's labels."""
    return dict(part.split("=", 1) for part in shlex.split(only("LABEL").rest))


def compose() -> Any:
    """Return the compose file, variables being what they are by default."""
    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(re.sub(r"\$\{\w+(?::-([^}]*))?\}", lambda found: found[1] or "", text))


def seconds(duration: str) -> float:
    """Return the seconds of a duration like `90s` or `2min`; a number alone is seconds."""
    found = re.fullmatch(r"([0-9.]+)(|s|sec|m|min|h)", duration)
    assert found is not None, duration
    return float(found[1]) * {"m": 60, "min": 60, "h": 3600}.get(found[2], 1)


def manifests(overlay: str) -> list[Manifest]:
    """Return the manifests of an overlay, ConfigMaps among them."""
    folder = KUBERNETES / overlay
    kustomization = _yaml(folder / "kustomization.yaml")
    found = [each for part in _parts(kustomization) for each in _loaded(folder / part)]
    found += list(_configmaps(folder, kustomization))
    last = {(each["kind"], each["metadata"]["name"]): each for each in found}  # behavior: replace
    for each in last.values():
        _change(each, kustomization)
    return list(last.values())


def _parts(kustomization: Mapping[str, Any]) -> list[str]:
    return [*kustomization.get("resources", ()), *kustomization.get("components", ())]


def _loaded(path: Path) -> list[Manifest]:
    if path.is_dir():
        return manifests(str(path.resolve().relative_to(KUBERNETES)))
    return list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader))


def _configmaps(folder: Path, kustomization: Mapping[str, Any]) -> Iterator[Manifest]:
    for generator in kustomization.get("configMapGenerator", ()):
        data = {name: (folder / name).read_text(encoding="utf-8") for name in generator["files"]}
        yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}


def _change(manifest: Manifest, kustomization: Mapping[str, Any]) -> None:
    tags = {image["name"]: image["newTag"] for image in kustomization.get("images", ())}
    for container in containers(manifest):
        if container["image"] in tags:
            container["image"] += f":{tags[container['image']]}"
    counts = {each["name"]: each["count"] for each in kustomization.get("replicas", ())}
    if manifest["kind"] in {"Deployment", "StatefulSet"} and manifest["metadata"]["name"] in counts:
        manifest["spec"]["replicas"] = counts[manifest["metadata"]["name"]]


def pod(manifest: Manifest) -> Any:
    """Return the template of a workload's pods, None for what has none."""
    return manifest["spec"].get("template") if "spec" in manifest else None


def containers(manifest: Manifest) -> list[Any]:
    """Return the containers of a workload's pods."""
    template = pod(manifest)
    return [] if template is None else list(template["spec"]["containers"])


def the(found: list[Manifest], kind: str, name: str = "hartonomous") -> Manifest:
    """Return the one manifest of a kind and name."""
    (manifest,) = (each for each in found if each["kind"] == kind and each["metadata"]["name"] == name)
    return manifest


def of_kind(found: list[Manifest], kind: str) -> list[Manifest]:
    """Return the manifests of a kind."""
    return [manifest for manifest in found if manifest["kind"] == kind]


def _yaml(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)


def configuration(overlay: str) -> str:
    """Return the server's configuration in an overlay, or in the image (`docker`)."""
    if overlay == "docker":
        return (DOCKER / "hartonomous.yaml").read_text(encoding="utf-8")
    text: str = the(manifests(overlay), "ConfigMap")["data"]["hartonomous.yaml"]
    return text


def units() -> dict[str, dict[str, list[str]]]:
    """Return the settings of the server's systemd units, by the units' names."""
    found: dict[str, dict[str, list[str]]] = {}
    for path in sorted((ROOT / "systemd").glob("hartonomous*.service")):
        settings = found.setdefault(path.name, {})
        for line in path.read_text(encoding="utf-8").splitlines():
            name, equals, value = line.partition("=")
            if equals and name.isalnum():
                settings.setdefault(name, []).append(value)
    return found
