"""A study's place in MLflow: the store, the experiment with its saved view, and the parent run."""
