"""Sweeps in a process of their own, as the terminal starts them and waits for them."""
