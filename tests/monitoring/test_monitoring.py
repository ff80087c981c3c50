"""A real Prometheus watches the real application under a load that touches everything: nothing that is asked is empty.

`make monitoring` is the same for longer.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.monitoring.watch import watch

_SECONDS = 15.0
# Three thousand would be too many for a server of a few tenants: what was the newest label that nobody bounds?
_MOST_SERIES = 1_500


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="the Debian package prometheus is not installed")
async def test_every_panel_and_every_rule_has_data_under_load(
    tmp_path: Path, embedding_url: str, reranking_url: str, generative_url: str, vector_url: str
) -> None:
    models = {"embedding": embedding_url, "reranking": reranking_url, "generative": generative_url}
    report = await watch(_SECONDS, tmp_path, models, vector_url)
    assert report.empty == []
    assert report.faults == []
    assert report.complaints == ""
    assert report.exemplars > 0
    assert 0 < report.idle_series < report.busy_series < _MOST_SERIES
