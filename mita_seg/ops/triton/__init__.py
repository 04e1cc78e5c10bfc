"""Triton kernels for MiTA attention.

Importing this package needs Triton; :mod:`mita_seg.ops` imports it when the backend is first used.
"""
