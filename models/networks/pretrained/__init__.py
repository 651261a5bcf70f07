"""Networks that are never trained here; their weights come from files."""
