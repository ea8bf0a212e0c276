"""Where a step stops going downhill: line searches over multiples of it. Plain numbers, no torch."""
