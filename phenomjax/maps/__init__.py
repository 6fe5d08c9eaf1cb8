"""Maps of biology: from profiles of wells to relationships between genes and compounds, and how
good they are.
"""
