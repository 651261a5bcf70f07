"""Training machinery that knows no model: devices, precision, optimizer steps, processes, files."""
