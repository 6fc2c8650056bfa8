"""Measures runs outside the loop: again, by another judge, against TRL's own loop, against the clock."""
