"""Faces in whole photographs: find, align, restore, paste back."""
