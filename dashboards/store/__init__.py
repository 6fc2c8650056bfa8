"""Reads runs back from MLflow: addresses, databases, records, artifacts."""
