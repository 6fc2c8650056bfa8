"""The commands: what a person types, one function each."""
