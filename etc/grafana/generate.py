"""Makes the dashboards of `panels.yml`: what Grafana wants around each query is added here.

python etc/grafana/generate.py           # writes dashboards/*.json
python etc/grafana/generate.py --check   # exit 1 when they are not what this writes
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 24, 8
SCHEMA = 41  # of Grafana 12; newer ones migrate it


class Boards:
    """The dashboards of a description: `labels` are put in the place of their names, `scales` are those of values."""

    def __init__(self, described: Mapping[str, Any]) -> None:
        self._labels: dict[str, str] = described["labels"]
        self._scales: dict[str, Any] = described["scales"]
        self._boards: list[dict[str, Any]] = described["boards"]

    def files(self) -> dict[str, str]:
        """Return the text of each file by its name."""
        return {f"{board['name']}.json": _text(self._dashboard(board)) for board in self._boards}

    def _dashboard(self, board: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "uid": f"hartonomous-{board['name']}",
            "title": board["title"],
            "description": board["text"],
            "tags": ["hartonomous"],
            "schemaVersion": SCHEMA,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "timezone": "browser",
            "time": {"from": "now-1h", "to": "now"},
            "refresh": "30s",
            "links": [_links()],
            "annotations": {"list": []},
            "templating": {"list": self._variables(board)},
            "panels": list(self._laid_out(board["rows"])),
        }

    def _variables(self, board: Mapping[str, Any]) -> list[dict[str, Any]]:
        source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
        found = [
            source | {"current": {}},
            _variable("job", "Job", "label_values(hartonomous_build_info, job)"),
            _variable("instance", "Instance", 'label_values(hartonomous_build_info{job=~"$job"}, instance)'),
        ]
        own = board.get("variable")
        return found if own is None else [*found, _variable(own["name"], own["label"], self._selected(own["query"]))]

    def _selected(self, expression: str) -> str:
        for name, labels in self._labels.items():
            expression = expression.replace(name, labels)
        return expression

    def _laid_out(self, rows: Mapping[str, list[dict[str, Any]]]) -> Iterable[dict[str, Any]]:
        """Yield the objects of all rows, side by side as far as there is room."""
        y = number = 0
        for title, panels in rows.items():
            number += 1
            row = {"type": "row", "title": title, "collapsed": False, "panels": []}
            yield {"id": number, **row, "gridPos": _place(0, y, WIDTH, 1)}
            x, y = 0, y + 1
            height = HEIGHT // 2 if all(panel.get("kind") == "stat" for panel in panels) else HEIGHT
            for panel in panels:
                number += 1
                width = panel.get("width", 8)
                if x + width > WIDTH:
                    x, y = 0, y + height
                yield self._panel(panel, number, _place(x, y, width, height))
                x += width
            y += height

    def _panel(self, panel: Mapping[str, Any], number: int, place: dict[str, int]) -> dict[str, Any]:
        kind = panel.get("kind", "timeseries")
        return {
            "id": number,
            "type": kind,
            "title": panel["title"],
            "description": panel.get("text", ""),
            "datasource": SOURCE,
            "gridPos": place,
            "targets": [
                _target(kind, "ABCDEFGH"[index], self._selected(expression), legend, panel.get("exemplars", False))
                for index, (legend, expression) in enumerate(panel["queries"].items())
            ],
            "fieldConfig": {"defaults": self._defaults(panel, kind), "overrides": []},
            "options": _options(kind, panel["unit"]),
        }

    def _defaults(self, panel: Mapping[str, Any], kind: str) -> dict[str, Any]:
        scale = self._scales.get(panel.get("scale", ""), {})
        steps = scale.get("steps", [["green", None]])
        thresholds = {"mode": "absolute", "steps": [{"color": color, "value": value} for color, value in steps]}
        found: dict[str, Any] = {"unit": panel["unit"], "thresholds": thresholds}
        if "values" in scale:
            values = {str(value): {"text": text, "color": color} for value, (text, color) in scale["values"].items()}
            return found | {"mappings": [{"type": "value", "options": values}]}
        if kind == "timeseries":
            stacked = panel.get("stacked", False)
            stacking = {"mode": "normal" if stacked else "none"}
            found["custom"] = {"fillOpacity": 25 if stacked else 5, "showPoints": "never", "stacking": stacking}
        return found | {"min": 0}


def _links() -> dict[str, Any]:
    return {
        "type": "dashboards",
        "tags": ["hartonomous"],
        "title": "Hartonomous",
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
    }


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": f"{name}-query"},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _target(kind: str, number: str, expression: str, legend: str, exemplars: bool) -> dict[str, Any]:
    is_now = kind in {"stat", "bargauge"}
    return {
        "refId": number,
        "datasource": SOURCE,
        "editorMode": "code",
        "expr": expression,
        "legendFormat": legend,
        "instant": is_now,
        "range": not is_now,
        "format": "heatmap" if kind == "heatmap" else "time_series",
        "exemplar": exemplars,
    }


def _options(kind: str, unit: str) -> dict[str, Any]:
    last = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
    options: dict[str, dict[str, Any]] = {
        "stat": {"reduceOptions": last, "colorMode": "value", "graphMode": "none", "textMode": "auto"},
        "bargauge": {"reduceOptions": last, "orientation": "horizontal", "displayMode": "gradient"},
        "heatmap": {"calculate": False, "yAxis": {"unit": unit}, "color": {"mode": "scheme", "scheme": "Oranges"}},
        "state-timeline": {"mergeValues": True, "showValue": "auto", "legend": {"showLegend": False}},
        "timeseries": {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}},
    }
    return options[kind]


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _text(dashboard: Mapping[str, Any]) -> str:
    return json.dumps(dashboard, indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the dashboards, or look whether they are as they would be written."""
    described = yaml.safe_load((HERE / "panels.yml").read_text(encoding="utf-8"))
    files = {HERE / "dashboards" / name: text for name, text in Boards(described).files().items()}
    if arguments == ["--check"]:
        return int(any(path.read_text(encoding="utf-8") != text for path, text in files.items()))
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
