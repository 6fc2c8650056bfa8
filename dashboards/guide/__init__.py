"""What a guide claims of each loss, and a study's verdict on each claim."""
