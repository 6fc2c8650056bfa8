"""Writes what runs do to MLflow, also what an outage kept from it."""
