"""Computing statistics, temperatures and thresholds after training."""
