"""What computes in a thread of a server leaves the interpreter to the event loop soon."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hartonomous.cli import engine, serve
from hartonomous.engine import main

PYTHONS_OWN_S = 0.005


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(PYTHONS_OWN_S)
    yield
    sys.setswitchinterval(before)


def test_serve_shares_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_serve", lambda _: 0)
    assert serve.run(argparse.Namespace(config=Path("none"))) == 0
    assert sys.getswitchinterval() < PYTHONS_OWN_S / 2


def test_the_engine_shares_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "run", lambda *_, **__: None)
    monkeypatch.setattr("hartonomous.log.configure", lambda *_: None)
    given = argparse.Namespace(
        data=Path("none"), listen="", reserve_mb=0, api_key=None, no_restart=True, log_level="INFO"
    )
    assert engine.run(given) == 0
    assert sys.getswitchinterval() < PYTHONS_OWN_S / 2
