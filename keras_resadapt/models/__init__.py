"""The families: how each wires a backbone, and trains it."""
