"""A stand-in for Ascend's apex: signatures as recorded, behavior as measured, in plain torch.

Ascend's apex is not on PyPI and has no build for current torch, so the way our code uses it is
tested against this. Put the folder above on PYTHONPATH. Facts: Ascend/apex (a patch on NVIDIA/apex
4ef930c) executed on a simulated runtime; see test/npu/README.md.
"""
