"""How a run is trained and measured, with torch and TRL; knows nothing of Optuna, MLflow or a database."""
