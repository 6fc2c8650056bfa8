"""The format that this version writes into stores, and what to say of a newer one. Knows no store."""

from __future__ import annotations

from importlib.metadata import version

FORMAT = 2
"""What a study's records are written in. 1: before stores said so; 2: stores say it, and whose the study is."""


def this_version() -> str:
    """The version of this program."""
    return version("dpo-sweeper")


def refuse_newer(found: str | None, by: str | None, where: str) -> str | None:
    """Why a study that is kept in the format `found` cannot be used, None where it can. `by`: the version that wrote
    it; `where`: which study in which store.
    """
    if found is None or (found.isdecimal() and int(found) <= FORMAT):
        return None
    return (
        f"{where} is in format {found}, written by sweeper {by or 'of a later version'}, and this sweeper "
        f"{this_version()} knows formats up to {FORMAT}: upgrade it to use this study."
    )
