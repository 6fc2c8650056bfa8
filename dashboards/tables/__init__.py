"""The comparison as a table, in every format."""
