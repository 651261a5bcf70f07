"""Networks as ONNX graphs: making, checking, describing, shrinking and running them.

Only export.engine is for programs that restore; everything here needs requirements-export.txt.
"""
