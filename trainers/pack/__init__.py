"""Trains runs in packs: one pass for all, each with its own optimizer."""
