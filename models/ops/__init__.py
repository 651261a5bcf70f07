"""Operators and layers that several networks share."""
