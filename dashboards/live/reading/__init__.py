"""What the page shows: read from MLflow, from the events of sweeps and from the study kept in the store."""
