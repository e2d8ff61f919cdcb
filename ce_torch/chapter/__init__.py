"""The section's experiments and figures."""
