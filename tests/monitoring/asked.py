"""What dashboards, rules and alerts ask of Prometheus, with Grafana's variables replaced as Grafana does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ETC = Path(__file__).parents[2] / "etc"
PROMETHEUS = ETC / "prometheus"
DASHBOARDS = sorted((ETC / "grafana" / "dashboards").glob("*.json"))

_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
# A comparison with a number: what is left without it must have data, for an alert that is silent as well.
_NUMBER = r"\d[\d.]*(?: \* \d[\d.]*)?"
_ABSENT = re.compile(r"absent\((.+)\)")
_COMPARISON = re.compile(rf"\s+(?:==|>=|>|<)\s+(?:\({_NUMBER}\)|{_NUMBER})")


@dataclass(frozen=True, slots=True)
class Asked:
    """One expression, and who asks it."""

    who: str
    expression: str


def read_rules(name: str) -> list[dict[str, Any]]:
    """Return the rules of a file, in all its groups."""
    groups = yaml.safe_load((PROMETHEUS / name).read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels(path: Path) -> list[dict[str, Any]]:
    """Return the panels of a dashboard that ask something."""
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def by_panels(range_s: float, scrape_s: float) -> Iterator[Asked]:
    """Yield what each panel asks over a time of so many seconds, everything being chosen."""
    # Grafana's: at least four scrapes, so that there are two in each.
    values = {"__rate_interval": f"{int(4 * scrape_s)}s", "__range": f"{int(range_s)}s"}
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                expression = _VARIABLE.sub(lambda found: values.get(found[1], ".*"), target["expr"])
                yield Asked(f"{path.stem} / {panel['title']} / {target['legendFormat']}", expression)


def by_variables() -> Iterator[Asked]:
    """Yield what the variables of the dashboards are chosen from."""
    for path in DASHBOARDS:
        for variable in json.loads(path.read_text(encoding="utf-8"))["templating"]["list"]:
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable.get("definition", ""))
            if found is not None:
                selector = _VARIABLE.sub(".*", found[1])
                yield Asked(f"{path.stem} / ${variable['name']}", f"count by ({found[2]}) ({selector})")


def by_rules() -> Iterator[Asked]:
    """Yield what recording rules make, and what alerts look at."""
    for rule in read_rules("recording.yml"):
        yield Asked(f"rule {rule['record']}", rule["record"])
    for rule in read_rules("alerts.yml"):
        yield Asked(f"alert {rule['alert']}", without_comparisons(rule["expr"]))


def without_comparisons(expression: str) -> str:
    """Return what is compared with a number, or must not be absent, in place of that."""
    return _COMPARISON.sub("", _ABSENT.sub(r"\1", expression))
