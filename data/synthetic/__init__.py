"""The renderer of embedded synthetic faces."""
