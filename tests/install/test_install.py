"""`make install` as it is run: an environment of what is locked, which works where it will be."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.utils import canonicalize_name

from hartonomous import __version__

ROOT = Path(__file__).parents[2]
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ]+)(?: ; ([^\\]+))? \\$", re.MULTILINE)
# Nobody's umask decides who can read what is installed.
_UMASK = 0o077


@pytest.fixture(scope="module")
def destdir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Install below a folder with a name that is found wherever it stands."""
    folder = tmp_path_factory.mktemp("destdir-of-the-tests") / "a b"
    done = make("install", folder)
    assert done.returncode == 0, done.stderr
    yield folder
    shutil.rmtree(folder)


def make(target: str, destdir: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "--no-print-directory", target, f"DESTDIR={destdir}", *variables],
        cwd=ROOT,
        env=environment,
        umask=_UMASK,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def installation(destdir: Path) -> Path:
    return (destdir / "usr/local/lib/hartonomous/current").resolve()


def test_the_environment_has_what_is_locked_and_the_project_and_nothing_else(installation: Path) -> None:
    lock = (ROOT / "etc/server.lock").read_text(encoding="utf-8")
    (python,) = re.findall(r"^version = (.+)$", (installation / "pyvenv.cfg").read_text(), re.MULTILINE)
    there = {"python_full_version": python, "python_version": python.rpartition(".")[0]}
    pins = [pin for pin in _PIN.finditer(lock) if not pin[3] or Marker(pin[3]).evaluate(there)]
    (sites,) = installation.glob("lib/python3.*/site-packages")
    found = dict(path.name.removesuffix(".dist-info").rsplit("-", 1) for path in sites.glob("*.dist-info"))
    wanted = {str(canonicalize_name(pin[1])): pin[2] for pin in pins} | {"hartonomous": __version__}
    assert {str(canonicalize_name(name)): version for name, version in found.items()} == wanted
    assert not list(sites.glob("*.egg-link")) + list(sites.glob("__editable__*"))
    sources = {path.relative_to(ROOT) for path in (ROOT / "hartonomous").rglob("*.py")}
    assert {path.relative_to(sites) for path in (sites / "hartonomous").rglob("*.py")} == sources


def test_no_file_names_the_place_where_it_was_made(destdir: Path) -> None:
    names = [os.fsencode(destdir), b"hartonomous-install-"]
    for path in destdir.rglob("*"):
        if path.is_symlink():
            assert not any(name in os.fsencode(path.readlink()) for name in names), path
        elif path.is_file():
            content = path.read_bytes()
            assert not any(name in content for name in names), path


def test_everything_is_compiled(installation: Path) -> None:
    (sites,) = installation.glob("lib/python3.*/site-packages")
    for module in (sites / "hartonomous").rglob("*.py"):
        assert list(module.parent.glob(f"__pycache__/{module.stem}.*.pyc")), module


def test_who_may_read_and_who_may_write(destdir: Path) -> None:
    for path in destdir.rglob("*"):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid()), path
        if path.name == "credentials":
            assert stat.S_IMODE(status.st_mode) == 0o700
        elif path.is_dir() or (path.is_file() and status.st_mode & 0o100):
            assert stat.S_IMODE(status.st_mode) in (0o755, 0o777 if path.is_symlink() else 0o755), path
        elif not path.is_symlink():
            assert stat.S_IMODE(status.st_mode) == 0o644, path


def test_everything_is_where_it_belongs(destdir: Path, installation: Path) -> None:
    found = {
        path
        for path in destdir.rglob("*")
        if (path.is_symlink() or not path.is_dir()) and installation not in path.parents
    }
    names = {str(path.relative_to(destdir)) for path in found}
    wanted = {
        "usr/local/bin/hartonomous",
        "usr/local/lib/hartonomous/current",
        "usr/local/lib/hartonomous/installed.json",
        "etc/hartonomous/.defaults",
        "etc/hartonomous/hartonomous.yaml",
        "etc/hartonomous/prompt.yaml",
        *(
            f"usr/local/share/doc/hartonomous/{name}"
            for name in ("README.rst", "CHANGES.rst", "SECURITY.rst", "LICENSE")
        ),
    }
    for folder, place in (
        *((f"etc/{name}", f"usr/local/share/hartonomous/{name}") for name in ("curl", "grafana", "prometheus")),
        *((f"etc/{name}", f"usr/local/share/hartonomous/{name}") for name in ("haproxy", "nginx")),
        ("systemd/sysusers.d", "usr/local/lib/sysusers.d"),
        ("systemd/tmpfiles.d", "usr/local/lib/tmpfiles.d"),
    ):
        files = (path for path in (ROOT / folder).rglob("*") if path.is_file())
        wanted |= {f"{place}/{path.relative_to(ROOT / folder)}" for path in files}
    units = (path for path in (ROOT / "systemd").iterdir() if path.suffix in {".service", ".socket", ".target"})
    wanted |= {f"usr/local/lib/systemd/system/{path.name}" for path in units}
    wanted |= {f"etc/hartonomous/llama-{path.name}" for path in (ROOT / "systemd/llama").glob("*.env")}
    assert names == wanted


def test_it_works_where_it_is_put(destdir: Path) -> None:
    version = there(destdir, "/usr/local/bin/hartonomous --version")
    assert version.stdout.startswith("hartonomous 0.")
    checked = there(destdir, "hartonomous check /etc/hartonomous/hartonomous.yaml")
    assert checked.stdout == "/etc/hartonomous/hartonomous.yaml: ok\n"
    python = "$(head -1 /usr/local/bin/hartonomous | cut -c 3-)"
    where = there(destdir, f"{python} -c 'import hartonomous; print(hartonomous.__file__)'")
    assert re.fullmatch(
        r"/usr/local/lib/hartonomous/0[^/]*/lib/python3[^/]*/site-packages/hartonomous/.*\n", where.stdout
    )


def there(destdir: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a host whose /usr/local and /etc have what was installed, beside what this one's have."""
    # A colon and a space are not for mount: the folder is reached by another name.
    script = """
        set -e; mount -t tmpfs tmpfs /mnt; mkdir /mnt/new; mount --bind "$1" /mnt/new
        for folder in usr/local etc; do mount -t overlay overlay -o lowerdir=/mnt/new/$folder:/$folder /$folder; done
        umount /mnt/new; PATH=/usr/local/bin:/usr/bin:/bin; echo mounted >&2; cd /; exec sh -c "$2"
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", destdir, command], capture_output=True, text=True, check=False
    )
    if "mounted" not in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done


def test_without_the_packages_it_says_so_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    destdir = tmp_path / "host"
    done = make("install", destdir)
    assert done.returncode != 0
    assert "The packages could not be had" in done.stderr
    assert not destdir.exists() or not list(destdir.rglob("*"))


def test_a_prefix_that_is_no_absolute_path_is_refused(tmp_path: Path) -> None:
    done = make("install", tmp_path, "PREFIX=local")
    assert done.returncode != 0
    assert "PREFIX and SYSCONFDIR are absolute paths" in done.stderr
    assert not list(tmp_path.iterdir())


def test_uninstalling_leaves_the_configuration(destdir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(destdir, copy, symlinks=True, copy_function=os.link)
    before = {path for path in copy.rglob("*") if copy / "etc" in path.parents}
    done = make("uninstall", copy)
    assert done.returncode == 0, done.stderr
    assert f"{copy}/etc/hartonomous stays.\n" in done.stdout
    assert set(copy.rglob("*")) == {copy / "etc", *before}


def test_an_empty_python_is_none(tmp_path: Path) -> None:
    shown = make("install", tmp_path, "--dry-run", "PYTHON=")
    assert re.match(r"\S*python3 -B etc/install [^\n]*(\\\n[^\n]*)* install$", shown.stdout), shown
    assert "--python" not in shown.stdout
