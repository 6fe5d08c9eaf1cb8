"""Statistics that several rooms share: ties, bootstrap, permutation p-values, false discovery."""
