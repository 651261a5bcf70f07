"""Operators and layers of several networks."""
