"""How workers reach a sweep: a door that they knock at, frames, and messages as JSON."""
