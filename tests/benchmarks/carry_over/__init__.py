"""Do the findings of the embedded world carry over? Predictions, the studies that test them, and how they come out."""
