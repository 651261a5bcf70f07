"""The renderer of synthetic faces."""
