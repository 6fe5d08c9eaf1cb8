"""Mutation effects from the likelihoods of a language model."""
