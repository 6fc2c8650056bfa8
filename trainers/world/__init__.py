"""The embedded world: a tiny review writer, gold rewards and preference pairs; knows no loss and no store."""
