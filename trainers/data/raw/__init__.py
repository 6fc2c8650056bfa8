"""Raw rows: what their columns are called, and what is odd of them."""
