"""Compiles the Triton kernels for GPUs that need not be there, and says what they take.

What ``tools/check_kernels.py`` does. Needs PyTorch and Triton alone.
"""
