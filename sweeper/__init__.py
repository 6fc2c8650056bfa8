"""The verbs: plan, run, status, table, export; asks Optuna, hands runs to an executor, records in MLflow."""
