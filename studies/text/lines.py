"""The first line of a longer text."""


def first_line(text: str, missing: str = "no message") -> str:
    """The first line of a text that says something; `missing` where it says nothing."""
    return text.strip().partition("\n")[0] or missing
