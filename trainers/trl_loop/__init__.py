"""One run through TRL's own loop."""
