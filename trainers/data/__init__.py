"""Preference pairs: where they are read, what is wrong with them, how they are cut, split and changed."""

from trainers.data.pairs import DataError, Pairs, Row, check_data, load_pairs, read_local

__all__ = ["DataError", "Pairs", "Row", "check_data", "load_pairs", "read_local"]
