"""Colours and sizes that all figures share."""

# Okabe & Ito 2008
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


GREY, DARK = "#999999", "#333333"
COSINES = "RdBu_r"  # of similarities from -1 to 1
