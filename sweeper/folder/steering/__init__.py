"""What a running sweep is told by others, and what it tells them: its border, and the rounds that are asked for."""
