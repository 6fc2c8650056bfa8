"""Reads a study file, completes it and refuses a wrong one with every mistake at once."""
