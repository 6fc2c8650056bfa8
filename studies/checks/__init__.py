"""Checks of a study that need more than one of its keys: each file has one part of a study file."""
