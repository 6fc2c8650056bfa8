"""Records of runs -> what they say of each variant in each scenario."""
