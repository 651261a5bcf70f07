"""Images on disk, in memory and in videos; nothing that knows a model."""
