"""What is kept of studies in a folder: listed, found again, removed."""
