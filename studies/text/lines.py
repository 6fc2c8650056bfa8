"""The first line of a longer text, and of what an error says."""


def first_line(text: str, missing: str = "no message") -> str:
    """The first line of a text that says something; `missing` where it says nothing."""
    return next(iter(text.strip().splitlines()), missing)


def first_line_of(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing. What it says is not redacted."""
    return first_line(str(error), type(error).__name__)
