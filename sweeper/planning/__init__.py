"""What a study would run, take and share, said before anything runs."""
