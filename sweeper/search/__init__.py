"""The search in Optuna's words, and Optuna's storage."""
