"""A study as one page that opens without a network."""
