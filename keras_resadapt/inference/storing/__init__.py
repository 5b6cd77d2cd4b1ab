"""Files about a trained network: fingerprints, logits and thresholds."""
