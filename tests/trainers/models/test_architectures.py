"""Every architecture trains as stock TRL does on its export, in a pack or alone, or is refused with the reason."""

from pathlib import Path

import pytest

from sweeper.tracking.experiment.new_store import make_store
from tests.trainers.architectures import CONFIGS, TABLE, row


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    make_store(f"sqlite:///{file}")
    return file


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CONFIGS))
def test_an_architecture_trains_as_the_table_says(name: str, store: Path) -> None:
    found = row(name, store)
    assert found in TABLE.read_text(encoding="utf-8").splitlines(), "python -m tests.trainers.architectures"
    assert "**" not in found, "lost, or not as stock"


def test_the_table_has_every_architecture() -> None:
    kept = TABLE.read_text(encoding="utf-8")
    assert len(CONFIGS) >= 30
    assert all(f"\n| {name} |" in kept for name in CONFIGS)
