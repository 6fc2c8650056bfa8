"""All that runs wrote when they were measured, kept: the texts, what judges said of them, and who wins."""
