"""Base models, tokenizers and adapters as they lie on disk: what they are and what must be known of them."""
