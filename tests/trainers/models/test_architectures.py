"""Every architecture trains as stock TRL does, in a pack or alone, or is refused with the reason."""

import pytest

from tests.trainers.architectures import CONFIGS, TABLE, row


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CONFIGS))
def test_an_architecture_trains_as_the_table_says(name: str) -> None:
    found = row(name)
    assert found in TABLE.read_text(encoding="utf-8").splitlines(), "python -m tests.trainers.architectures"
    assert "**" not in found, "lost, or not as stock"


def test_the_table_has_every_architecture() -> None:
    kept = TABLE.read_text(encoding="utf-8")
    assert len(CONFIGS) >= 30
    assert all(f"\n| {name} |" in kept for name in CONFIGS)
