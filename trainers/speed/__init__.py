"""How long a training step takes with each variant of a study, measured in a process of its own."""
