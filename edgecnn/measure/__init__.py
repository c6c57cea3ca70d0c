"""Accuracy, parity, latency and the report that shows them, with their uncertainty."""
