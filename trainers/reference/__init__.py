"""Reference log-probs: computed once for all runs from the same base, shared by processes."""
