"""Token banks: format, parsing of FASTA and other text, lanes and spans, the loaders."""
