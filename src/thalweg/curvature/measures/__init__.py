"""What is measured of a step: how far it can go, and the curvature it meets."""
