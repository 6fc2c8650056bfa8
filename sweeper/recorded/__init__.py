"""What is recorded of a study, held against what it asks now."""
