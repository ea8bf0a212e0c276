"""Which learning rates a checkpoint tolerates, asked without touching it."""
