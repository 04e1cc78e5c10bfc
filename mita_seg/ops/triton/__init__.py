"""Triton kernels for MiTA attention.

Its modules need Triton, but for `support`, which tells whether they can run; :mod:`mita_seg.ops`
imports the others when the backend is first used.
"""
