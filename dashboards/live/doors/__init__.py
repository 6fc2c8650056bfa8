"""Who may come in, and what stands behind the same door: token, cookie, origin, and MLflow beside the page."""
