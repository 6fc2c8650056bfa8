"""Preference pairs: where they are read, what is wrong with them, how they are cut, split and changed."""
