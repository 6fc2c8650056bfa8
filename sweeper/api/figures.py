"""A figure, as a notebook shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """A figure: its title, its caption, and a whole SVG document."""

    title: str
    caption: str
    svg: str

    def save(self, path: str | Path) -> Path:
        """Write the SVG to a file, and give its path."""
        target = Path(path)
        target.write_text(self.svg, encoding="utf-8")
        return target

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"Figure({self.title!r})"
