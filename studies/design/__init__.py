"""What a study will try and what makes two runs the same: points, counts, identity. Pure."""
