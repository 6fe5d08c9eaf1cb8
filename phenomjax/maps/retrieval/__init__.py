"""Retrieval of like profiles among others: average precision, its null and its mean (mAP)."""
