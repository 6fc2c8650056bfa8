"""How the attention of many runs is computed: which kernel, and our own one for small heads on a CPU."""
