"""Loads a model's tokenizer and refuses what could not be trained with; knows no data, no loss and no training."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from json import JSONDecodeError
from pathlib import Path
from typing import Final

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import find_adapter_config_file

from studies.schema.paths import existing
from studies.text.files import read_json
from trainers.models.bases import ADAPTER, CONFIG, AdapterBase, UnusableModel, adapter_of, small_file, tokenizer_place
from trainers.models.template_date import on_day

__all__ = ["UnusableModel", "check_ids", "embedding_rows", "load_tokenizer", "no_row"]


def load_tokenizer(
    path: str, revision: str | None, trust_remote_code: bool, day: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of the model at `path`, padding with its end token where it has no other, as TRL does; an adapter
    without one takes that of the model below it.

    `day`: what its chat template is told where it asks for the date (None: today, each time). Raises UnusableModel for
    one without an end token, with which TRL ends every plain completion, and for a template that no day answers.
    """
    place, of_place = tokenizer_place(path, revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=of_place, trust_remote_code=trust_remote_code)
    except Exception as error:
        below = _below(place, of_place) if isinstance(error, OSError | ValueError) else None
        if below is None:
            _refuse_without_files(path, place, error)
            if not trust_remote_code:
                _refuse_other_content(path, error)
            raise
        return load_tokenizer(below.base, below.revision, trust_remote_code, day)
    if tokenizer.eos_token is None:
        raise UnusableModel(
            f"model {path}: its tokenizer has no end token, with which completions end; name one of its vocabulary as "
            "eos_token in the tokenizer_config.json that lies with the model"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if day is not None and tokenizer.chat_template is not None:
        try:
            tokenizer.chat_template = _on_day(tokenizer.chat_template, day)
        except ValueError as error:
            raise UnusableModel(f"model {path}: {error}") from error
    return tokenizer


def _refuse_without_files(path: str, place: str, error: Exception) -> None:
    """Raises UnusableModel where a folder has no tokenizer, for which transformers names packages to install, or has a
    file of one that is no JSON, which it does not name.
    """
    folder = existing(place)
    if folder is None:
        return
    names = {file.name for file in folder.iterdir()} - {"tokenizer_config.json"}  # which holds no vocabulary
    if not any(name.startswith(_TOKENIZERS) or Path(name).suffix in _VOCABULARIES for name in names):
        raise UnusableModel(
            f"model {path}: the folder has no tokenizer: save that of the model beside its weights, as by "
            "AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)"
        ) from error
    if isinstance(error, JSONDecodeError):
        raise UnusableModel(
            f"model {path} cannot be used: a file of its tokenizer is no JSON ({error}): load it again"
        ) from error


def _refuse_other_content(path: str, error: Exception) -> None:
    """Raises UnusableModel for a file that is JSON and no tokenizer, or one of a later version: transformers meets it
    with whatever its code comes to, and the library in Rust with a bare Exception.
    """
    if isinstance(error, KeyError | TypeError | AttributeError | IndexError) or type(error) is Exception:
        raise UnusableModel(
            f"model {path} cannot be used: a file of its tokenizer is not as this transformers reads it "
            f"({type(error).__name__}: {error}): load it again, or update transformers and tokenizers"
        ) from error


_TOKENIZERS: Final = ("tokenizer", "vocab", "tekken", "merges")
_VOCABULARIES: Final = frozenset({".model", ".tiktoken"})


def _below(path: str, revision: str | None) -> AdapterBase | None:
    """The adapter on the Hub that `path` names, where it lies on a model of another name."""
    with suppress(OSError):
        config = None if existing(path) else find_adapter_config_file(path, revision=revision)
        adapter = None if config is None else adapter_of(path, Path(config))
        return None if adapter is None or adapter.is_beside else adapter
    return None


def _on_day(template: str | dict[str, str], day: str) -> str | dict[str, str]:
    """A chat template, or several by name, as told one day."""
    if isinstance(template, str):
        return on_day(template, day)
    return {name: on_day(text, day) for name, text in template.items()}


def check_ids(ids: Iterable[int], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises UnusableModel where the largest of these ids has no row in the model's embedding.

    On a GPU such an id ends the process with an error that names neither model nor token.
    """
    largest, rows = max(ids), model.get_input_embeddings().weight.shape[0]
    if largest >= rows:
        raise UnusableModel(no_row(model.name_or_path, tokenizer, largest, rows))


def no_row(model: str, tokenizer: PreTrainedTokenizerBase, number: int, rows: int) -> str:
    """That a model has fewer rows in its embedding than a token needs, and what to do."""
    return (
        f"model {model}: its tokenizer gives {tokenizer.convert_ids_to_tokens(number)!r} the id {number}, but its "
        f"embedding has {rows} rows; take the tokenizer that the model was made with, or resize the embedding and save "
        "both together"
    )


def embedding_rows(path: str, revision: str | None) -> int | None:
    """The rows of a model's embedding, as its config tells; None of an adapter, which may have made them more."""
    config = None if small_file(path, revision, ADAPTER) else small_file(path, revision, CONFIG)
    if config is None:
        return None
    with suppress(OSError, ValueError):
        told = read_json(config, links=True)
        told = told if isinstance(told, dict) else {}
        inner = told.get("text_config")
        rows = (inner if isinstance(inner, dict) else told).get("vocab_size")
        return rows if isinstance(rows, int) else None
    return None
