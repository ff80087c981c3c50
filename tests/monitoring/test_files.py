"""Rules, runbook and dashboards without a server: Prometheus' own checks, and that what is referred to is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hartonomous.metrics import Metrics
from tests.monitoring.asked import (
    DASHBOARDS,
    ETC,
    PROMETHEUS,
    by_panels,
    by_rules,
    by_variables,
    panels,
    read_rules,
    without_comparisons,
)

GRAFANA = ETC / "grafana"
ALERTS = read_rules("alerts.yml")
RECORDED = {rule["record"] for rule in read_rules("recording.yml")}


def promtool(*arguments: str | Path) -> None:
    """Run promtool, which must find nothing wrong."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_example_of_its_configuration() -> None:
    promtool("check", "config", "--syntax-only", PROMETHEUS / "prometheus.yml")


def test_prometheus_takes_the_rules() -> None:
    promtool("check", "rules", PROMETHEUS / "recording.yml", PROMETHEUS / "alerts.yml")


def test_each_alert_fires_in_its_case_and_none_at_a_healthy_server() -> None:
    promtool("test", "rules", PROMETHEUS / "tests" / "alerts.yml")


def test_each_alert_has_a_case_and_the_healthy_server_has_what_each_looks_at() -> None:
    cases = yaml.safe_load((PROMETHEUS / "tests" / "alerts.yml").read_text(encoding="utf-8"))["tests"]
    names = [case["name"] for case in cases if not case["name"].startswith("A healthy server")]
    assert sorted(names) == sorted(alert["alert"] for alert in ALERTS)
    healthy = {series["series"].partition("{")[0] for series in cases[0]["input_series"]}
    unseen = {name for alert in ALERTS for name in _metrics_in(alert["expr"]) - RECORDED - healthy}
    assert not unseen


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_how_bad_it_is_and_its_runbook_has_a_section(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    notes = alert["annotations"]
    assert notes["summary"].endswith(".")
    assert notes["description"].endswith(".")
    path, _, anchor = notes["runbook"].partition("#")
    sections = _sections((ETC.parent / path).read_text(encoding="utf-8"))
    section = sections[anchor]
    assert all(f"**{part}.**" in section for part in ("Means", "Look at", "Do"))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_speaks_of_labels_that_are_left_and_of_its_value(alert: dict[str, Any]) -> None:
    for written in re.findall(r"\{\{ (.*?) \}\}", alert["annotations"]["description"]):
        assert re.fullmatch(r"\$labels\.\w+|\$value(?: \| humanize(?:Percentage|Duration)?)?", written), written
        label = written.partition("$labels.")[2]
        assert not label or label in _labels_left(alert["expr"]), f"{label} is not there any more"


def test_the_runbook_has_no_section_of_an_alert_that_there_is_not() -> None:
    sections = _sections((PROMETHEUS / "runbook.rst").read_text(encoding="utf-8"))
    assert sorted(sections) == sorted(alert["alert"].lower() for alert in ALERTS)


def test_the_runbook_and_the_alerts_name_settings_and_metrics_that_there_are() -> None:
    text = (PROMETHEUS / "runbook.rst").read_text(encoding="utf-8")
    settings = (ETC / "hartonomous.yaml").read_text(encoding="utf-8")
    for name in re.findall(r"``((?:server|rag|limits|backends|auth|audit|tracing)\.[a-z_.*]+)``", text):
        assert re.search(rf"(?m)^[ #]*{name.rpartition('.')[2]}:", settings), f"{name} is no setting"
    assert set(re.findall(r"\bhartonomous_\w+", text)) <= _declared()


def test_panels_that_the_runbook_names_are_there() -> None:
    titles = {panel["title"] for path in DASHBOARDS for panel in panels(path)}
    titles |= {json.loads(path.read_text(encoding="utf-8"))["title"].partition(" / ")[2] for path in DASHBOARDS}
    text = " ".join((PROMETHEUS / "runbook.rst").read_text(encoding="utf-8").split())
    named = set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", text)) - {"Targets"}
    assert named <= titles


def test_the_dashboards_are_those_that_their_description_makes() -> None:
    done = subprocess.run([sys.executable, str(GRAFANA / "generate.py"), "--check"], check=False)
    assert done.returncode == 0, "python etc/grafana/generate.py makes them anew"
    described = yaml.safe_load((GRAFANA / "panels.yml").read_text(encoding="utf-8"))
    assert {f"{board['name']}.json" for board in described["boards"]} == {path.name for path in DASHBOARDS}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_one_that_grafana_takes(path: Path) -> None:
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    assert dashboard["uid"] == f"hartonomous-{path.stem}"
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert {"datasource", "job", "instance"} <= variables
    asked = panels(path)
    ids = [panel["id"] for panel in dashboard["panels"]]
    titles = [panel["title"] for panel in asked]
    assert len(set(ids)) == len(ids)
    assert len(set(titles)) == len(titles)
    for panel in asked:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for target in panel["targets"]:
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval", "__range"}
            assert used <= variables, target["expr"]
    assert not _overlapping([panel["gridPos"] for panel in dashboard["panels"]])


def test_latency_panels_of_what_carries_traces_show_them() -> None:
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                if panel["type"] == "timeseries" and "histogram_quantile" in target["expr"]:
                    carries = not re.search(r"event_loop|parsing", target["expr"])
                    assert target["exemplar"] is carries, panel["title"]


def test_everything_that_is_asked_for_is_declared() -> None:
    known = _declared() | RECORDED | {"up", "ALERTS"}
    for asked in (*by_panels(60, 1), *by_variables(), *by_rules()):
        names = {name for name in _metrics_in(asked.expression) if not name.startswith(("process_", "scrape_"))}
        assert names <= known, asked
    for rule in (*read_rules("recording.yml"), *ALERTS):
        assert {name for name in _metrics_in(rule["expr"]) if not name.startswith("process_")} <= known, rule


def test_provisioning_names_the_same_data_source_and_reads_dashboards_from_files() -> None:
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/hartonomous.yml").read_text(encoding="utf-8"))
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/hartonomous.yml").read_text(encoding="utf-8"))
    data = source["datasources"][0]
    assert data["type"] == "prometheus"
    assert data["jsonData"]["exemplarTraceIdDestinations"][0]["name"] == "trace_id"
    assert provider["providers"][0]["type"] == "file"


@pytest.mark.parametrize(
    ("expression", "left"),
    [
        ("up == 0", "up"),
        ("(a > (14.4 * 0.005) and b > (14.4 * 0.005))", "(a and b)"),
        ("(x > 0) - time() < 14 * 86400", "(x) - time()"),
        ('sum(increase(x{status=~"5.."}[10m])) > 0', 'sum(increase(x{status=~"5.."}[10m]))'),
        ("a / b > 0.8 and on (job) c", "a / b and on (job) c"),
        ("a > 0.5 and b * 6 * 3600 >= 10", "a and b * 6 * 3600"),
        ('absent(up{job=~"a.*"})', 'up{job=~"a.*"}'),
    ],
)
def test_what_an_alert_looks_at_is_left_without_its_threshold(expression: str, left: str) -> None:
    assert without_comparisons(expression) == left


def _metrics_in(expression: str) -> set[str]:
    """Return the names of the metrics, and of what rules have recorded, in an expression."""
    bare = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"\b(?:(?:hartonomous|process)_\w+|job\w*:[\w:]+|up|ALERTS)\b(?!\s*:)", bare))


def _labels_left(expression: str) -> set[str]:
    """Return the labels of what an alert's expression returns: those that it sums by, or those of its first series."""
    summed = re.findall(r"by \(([\w, ]+)\)", expression)
    if summed:
        return set(summed[0].split(", "))
    recorded = re.search(r"(job\w*):hartonomous", expression)
    if recorded is not None:
        return set(recorded[1].split("_"))
    return {"job", "instance"} | (
        {"service", "address"} if "backend" in expression or "breaker" in expression else set()
    )


def _declared() -> set[str]:
    """Return the names of all samples that there may be."""
    metrics = Metrics()
    metrics.tenants.serve({"key": "owner"})
    names = set()
    for family in metrics.registry.collect():
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count", ""), "info": ("_info",)}
        names |= {family.name + ending for ending in endings.get(family.type, ("",))}
    return names


def _sections(text: str) -> dict[str, str]:
    """Return the sections of a runbook by their anchors, as renderers make them of titles."""
    parts = re.split(r"\n(\w+)\n-{3,}\n", text)
    return {title.lower(): body for title, body in zip(parts[1::2], parts[2::2], strict=True)}


def _overlapping(places: list[dict[str, int]]) -> list[tuple[int, int]]:
    cells: dict[tuple[int, int], int] = {}
    for place in places:
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                cells[x, y] = cells.get((x, y), 0) + 1
    return [cell for cell, count in cells.items() if count > 1]
