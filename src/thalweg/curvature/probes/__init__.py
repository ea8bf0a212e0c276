"""Measures along a run: when they are taken, where they are written, and what is done about them."""
