"""Packages that are imported without what they would import on the off chance."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hartonomous.without import without


def _runs(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_package_is_absent_for_as_long_as_it_was_said() -> None:
    _runs(
        "from hartonomous.without import without\n"
        "with without('wave'):\n"
        "    try:\n"
        "        import wave\n"
        "    except ImportError as error:\n"
        "        assert error.name == 'wave'\n"
        "    else:\n"
        "        raise AssertionError\n"
        "    import colorsys\n"
        "import wave\n"
    )


def test_what_is_imported_already_stays() -> None:
    with without("subprocess"):
        import subprocess as again
    assert again is subprocess


def test_finders_are_as_before_also_after_an_error() -> None:
    before = list(sys.meta_path)
    with pytest.raises(ValueError, match="broken"), without("redis"):
        raise ValueError("broken")
    assert sys.meta_path == before


def test_what_uses_redis_is_imported_after_what_does_without() -> None:
    _runs("import hartonomous.server, hartonomous.cache.shared, hartonomous.limiting.shared")
