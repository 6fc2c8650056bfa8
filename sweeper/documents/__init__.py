"""What commands answer with `--json`: a frozen type for each, and how it is filled from what the command found."""
