"""Whose a study is, and who runs it now."""
