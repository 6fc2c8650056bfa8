"""Controls of the comparison itself: what a study expects, and what chance alone would show."""
