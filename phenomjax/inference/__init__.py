"""What the doors to trained language models share: reading sequences, batches of few shapes, segments with memory, storing features."""
