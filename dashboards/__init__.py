"""Reads what was recorded and shows it: records to tables; trains nothing and writes to no store."""
