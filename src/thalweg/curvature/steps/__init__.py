"""The update that the optimizer really made: caught, replayed on its own batch, and undone to the bit."""
