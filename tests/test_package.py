"""What `pip install` gets: wheel and source are whole, and the quickstart runs from them where no clone is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("dashboards", "studies", "sweeper", "trainers")
BUILD = "from setuptools.build_meta import build_{0}; build_{0}('dist')"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built from, with its source distribution in `dist`."""
    folder = tmp_path_factory.mktemp("source")
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "MANIFEST.in", "constraints.txt"):
        shutil.copyfile(ROOT / name, folder / name)
    build(folder, "sdist")
    return folder


def build(folder: Path, kind: str) -> Path:
    """Build without a network, by the setuptools of who runs the tests."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (made,) = (folder / "dist").glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution alone."""
    folder = tmp_path_factory.mktemp("unpacked")
    (archive,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    assert (unpacked / "constraints.txt").is_file()
    return build(unpacked, "wheel")


@pytest.mark.slow
def test_the_wheel_holds_every_file_that_the_code_reads_and_none_of_the_results(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        held = {name for name in packed.namelist() if ".dist-info/" not in name}
    wanted = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file()
        and path.suffix not in (".md", ".pyc", ".ipynb")
        and "results" not in path.relative_to(ROOT).parts
    }
    assert held == wanted


@pytest.mark.slow
def test_installed_alone_it_runs_the_quickstart_in_another_folder(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(command, check=True)
    (libraries,) = place.glob("lib/*/site-packages")
    (libraries / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # not its editable installs
    here = tmp_path / "here"
    here.mkdir()
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}

    def call(*words: str) -> str:
        done = subprocess.run([place / "bin" / words[0], *words[1:]], cwd=here, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = call("python", "-c", "import studies, sweeper; print(sweeper.__file__, studies.__file__)")
    assert all(Path(file).is_relative_to(libraries) for file in where.split())
    smaller = ("--set", "replicates=1", "--set", "budget.trials=1", "--workers", "1")
    told = call("sweeper", "run", "quickstart", *smaller)
    assert "no run failed" in told or "failed" in told
    assert "sigmoid" in call("sweeper", "table", "quickstart", *smaller[:4])
    assert "Wrote best.yaml" in call("sweeper", "export", "quickstart", "--variant", "sigmoid", *smaller[:4])
    assert "guide-clean" in call("sweeper", "plan", "guide-clean")
