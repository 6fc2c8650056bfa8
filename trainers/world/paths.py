"""Where the embedded model lives inside the package; does not load it and does not know torch."""

from pathlib import Path


def model_path() -> Path:
    """Folder of the embedded model in Hugging Face form; it is part of the installed package."""
    return Path(__file__).resolve().parent / "model"
