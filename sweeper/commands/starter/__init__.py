"""Designs a study from a model, a data set and hours, and writes it as a file that teaches."""
