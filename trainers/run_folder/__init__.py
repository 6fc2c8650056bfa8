"""What a run keeps in its folder, and why it failed. Loads no torch."""
