"""The root model with operating points, and the families."""
