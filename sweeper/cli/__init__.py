"""The command line: parses, calls, prints."""

from sweeper.cli.app import app, main

__all__ = ["app", "main"]
