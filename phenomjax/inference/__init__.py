"""What the doors to trained models share: parameters and runtimes; for sequences batches of few
shapes, segments with memory; storing features.
"""
