"""Measuring accuracy, multiply-adds and latency."""
