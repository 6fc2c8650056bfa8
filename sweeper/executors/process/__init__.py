"""Trains in warm worker processes of this machine."""
