"""Accuracy, multiply-adds and latency of a network."""
