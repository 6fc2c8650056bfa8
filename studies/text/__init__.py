"""Text and files that strangers may read or write: secrets, invisible characters, links, endless files."""
