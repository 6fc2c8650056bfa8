"""The embedded world: a tiny review writer, its text, gold rewards and pairs; knows nothing of DPO, search or stores."""
