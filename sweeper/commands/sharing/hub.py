"""Puts a folder on the Hugging Face Hub, and asks it for licences. What goes wrong is a sentence with its remedy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from studies.text.lines import first_line
from studies.text.redact import redact
from sweeper.commands.sharing.card import TRL_FILE, UNKNOWN, Licences
from sweeper.commands.sharing.heads import ExportError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_OF_EVERY_REPOSITORY = frozenset({".gitattributes"})


class PushError(Exception):
    """The Hub did not take it: says why and what to do."""


def check_name(repository: str) -> None:
    """Raises ExportError for what is no ORG/NAME."""
    if not _NAME.fullmatch(repository) or "--" in repository or ".." in repository or repository.endswith(".git"):
        raise ExportError(
            f"--push-to-hub {repository}: must be ORG/NAME, a user or an organization and the name of the model, of "
            "letters, digits, '-', '_' and '.'."
        )


def licences_of(base: str | None, data: str | None) -> Licences:
    """What the Hub says of the licences, as far as it answers."""
    hub = _hub()
    return Licences(_licence(hub.model_info, base), _licence(hub.dataset_info, data))


def push(folder: Path, repository: str, *, public: bool) -> str:
    """Upload the folder's files, into a repository that is made where there is none, private unless `public`; gives its
    address. Raises PushError.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise PushError("The Hub wants to know who you are: sign in by `hf auth login`, or set HF_TOKEN, then again.")
    hub = _hub()
    with _hub_errors(repository):
        there = _standing(hub, repository)
        if there is None:
            hub.create_repo(repository, private=not public, exist_ok=True)
            there = _standing(hub, repository)  # private as asked, unless its owner's rules say otherwise
        _refuse_other(there, repository, public=public)
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload what dpo-sweeper exported")
    return f"{hub.endpoint}/{repository}"


def _hub() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)


def _standing(hub: Any, repository: str) -> Any:
    """What the Hub knows of a repository, None where there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return hub.model_info(repository)
    except RepositoryNotFoundError:
        return None


def _refuse_other(there: Any, repository: str, *, public: bool) -> None:
    """Raises PushError where the upload would replace somebody's work, or would be seen by all unasked."""
    if there is None:
        raise PushError(f"{repository} was made on the Hub and cannot be seen: give the token the right to read it.")
    if not there.private and not public:
        raise PushError(f"{repository} is public: say --public to publish into it, or name another repository.")
    files = {file.rfilename for file in there.siblings or ()} - _OF_EVERY_REPOSITORY
    if files and TRL_FILE not in files:
        raise PushError(
            f"{repository} holds files that no export has made ({', '.join(sorted(files)[:3])}), and nothing there is "
            "replaced: name another repository."
        )


def _licence(ask: Any, name: str | None) -> str:
    if name is None:
        return UNKNOWN
    try:
        found = getattr(ask(name).card_data, "license", None)
    except Exception:  # whatever keeps the Hub from answering, the user can look it up
        return UNKNOWN
    return found if isinstance(found, str) and re.fullmatch(r"[\w.-]{1,64}", found) else UNKNOWN


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    # The bases are of whatever library sends its requests, which changes with its versions.
    failures = cast("tuple[type[Exception], ...]", (*HfHubHTTPError.__bases__, OSError, RuntimeError))
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise PushError("HF_HUB_OFFLINE is set: unset it to push, or write the folder with --dry-run.") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        raise PushError(_refused(repository, status, first_line(str(redact(str(error))), ""))) from error
    except (HFValidationError, ValueError) as error:
        raise PushError(f"The Hub does not take {repository}: {first_line(str(redact(str(error))), '')}") from error
    except failures as error:
        reason = first_line(str(redact(str(error))), type(error).__name__)
        raise PushError(
            f"The Hub cannot be reached ({reason}): try again when there is a network; the same command goes on."
        ) from error


def _refused(repository: str, status: int | None, reason: str) -> str:
    if status == 401:
        return "The Hub does not know the token: sign in again by `hf auth login`, or set another HF_TOKEN."
    if status in (402, 403):
        return (
            f"The token may not write to {repository}: take one with the right to write "
            "(https://huggingface.co/settings/tokens), or a repository of your own."
        )
    return f"The Hub did not take {repository} ({reason}): try again later; the same command goes on."
