"""What is asked and what was answered: study files, their types, the table of losses, records of runs."""
