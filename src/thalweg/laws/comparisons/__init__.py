"""Comparisons: which law predicts runs that it has not seen, and how well."""
