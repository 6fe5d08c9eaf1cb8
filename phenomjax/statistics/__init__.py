"""Statistics that several rooms share: ties, the bootstrap, permutation p-values, false discovery."""
