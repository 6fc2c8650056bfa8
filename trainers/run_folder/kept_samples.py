"""The samples that a run keeps in its folder, and what judges gave them: see `studies.samples.kept`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from studies.samples.kept import (
    SAMPLES_FOLDER,
    SCORES_FILE,
    TEXTS_FILE,
    KeptScores,
    KeptTexts,
    bounded,
    scores_as_text,
    scores_from_text,
    texts_as_bytes,
    texts_from_bytes,
    with_preferred,
    with_scores,
    without_secrets,
)
from studies.text.files import is_file, is_folder, read_bytes, write_whole

Kept = TypeVar("Kept")


def add_evaluation(run: Path, texts: KeptTexts, scores: KeptScores) -> None:
    """Keep one evaluation of a run in its folder beside those that it made before. Raises OSError."""
    texts, before = without_secrets(texts), read_texts(run)
    if before is not None and (before.key, before.prompts) == (texts.key, texts.prompts):
        merged = {name: {**getattr(before, name), **getattr(texts, name)} for name in ("texts", "ended")}
        texts = texts.model_copy(update=merged)
    _folder(run).mkdir(parents=True, exist_ok=True)
    write_whole(_folder(run) / TEXTS_FILE, texts_as_bytes(bounded(texts)))
    write_scores(run, _merged(read_scores(run), scores))


def write_scores(run: Path, scores: KeptScores) -> None:
    """Keep what is known of a run's samples in its folder. Raises OSError."""
    _folder(run).mkdir(parents=True, exist_ok=True)
    write_whole(_folder(run) / SCORES_FILE, scores_as_text(scores))


def read_texts(run: Path) -> KeptTexts | None:
    """The texts in a run's folder; None where there are none, or none that can be read."""
    return _read(run, TEXTS_FILE, texts_from_bytes)


def read_scores(run: Path) -> KeptScores | None:
    """What is known of the samples in a run's folder; None where there is nothing that can be read."""
    return _read(run, SCORES_FILE, scores_from_text)


def sample_files(run: Path) -> list[Path]:
    """The files that a run keeps of its samples: regular ones, in a real folder."""
    if not (is_folder(run) and is_folder(_folder(run))):
        return []
    return [file for name in (TEXTS_FILE, SCORES_FILE) if is_file(file := _folder(run) / name)]


def _merged(before: KeptScores | None, new: KeptScores) -> KeptScores:
    if before is None or (before.key, before.prompts) != (new.key, new.prompts):
        return new
    tokens: Mapping[int, Any] = {**before.tokens, **new.tokens}
    found = before.model_copy(update={"tokens": tokens})
    for scored in new.scored:
        found = with_scores(found, scored.by, scored.scores)
    for preferred in new.preferred:
        found = with_preferred(found, preferred)
    return found


def _folder(run: Path) -> Path:
    return run / SAMPLES_FOLDER


def _read(run: Path, name: str, read: Callable[[bytes], Kept]) -> Kept | None:
    try:
        return read(read_bytes(_folder(run) / name, links=False))
    except (OSError, ValueError):
        return None
