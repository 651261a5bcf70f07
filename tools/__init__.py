"""Commands for developers and operators: python -m tools.NAME."""
