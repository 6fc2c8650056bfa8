"""The types of a study file, and how a variant is resolved into the settings of its runs."""
