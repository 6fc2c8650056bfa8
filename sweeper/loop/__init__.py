"""The loop of a sweep and its parts: ask, train, record, tell."""
