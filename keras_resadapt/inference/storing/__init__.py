"""What is kept of a trained network: fingerprints, logits, thresholds."""
