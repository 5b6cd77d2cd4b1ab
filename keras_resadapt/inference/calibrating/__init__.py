"""Statistics, temperatures and thresholds computed after training."""
