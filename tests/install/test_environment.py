"""Which Python is installed for."""

from __future__ import annotations

import sys
from pathlib import Path

import environment
import pytest
from places import InstallError


@pytest.fixture
def no_python_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_HOST_PYTHON", tmp_path / "python3")


@pytest.mark.usefixtures("no_python_of_the_host")
def test_a_host_without_a_python_of_its_own_gets_the_one_that_installs() -> None:
    assert environment.find_python(None) == sys.executable


@pytest.mark.parametrize("content", [None, "#!/bin/sh\necho 3 10 /usr/bin/python3.10\n", "#!/bin/sh\nexit 1\n"])
def test_a_python_that_is_not_there_or_will_not_do_is_refused_with_a_sentence(
    tmp_path: Path, content: str | None
) -> None:
    asked = tmp_path / "python3.99"
    if content is not None:
        asked.write_text(content)
        asked.chmod(0o755)
    with pytest.raises(InstallError, match=r"python3\.99: Python 3\.11 or newer with ensurepip is needed"):
        environment.find_python(str(asked))


def test_a_python_that_is_asked_for_is_taken() -> None:
    assert environment.find_python(sys.executable) == sys.executable
