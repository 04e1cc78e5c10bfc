"""Triton kernels for MiTA attention.

`support` tells whether they can run, `gpu` what the GPU has, `blocks` chooses block sizes, and
`launch` has small helpers: these four need no Triton. The other modules need it;
:mod:`mita_seg.ops` imports them when the backend is first used.
"""
