"""Numbers with their uncertainty, pure functions of numbers and records; trains nothing and opens no store."""
