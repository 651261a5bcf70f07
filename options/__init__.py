"""Command-line options in the original repository's style; argparse and YAML only."""
