"""What a `sweeper run` is made of: the open study, and the rounds that it trains."""
