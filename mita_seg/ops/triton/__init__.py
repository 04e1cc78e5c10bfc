"""Triton kernels for MiTA attention.

`support` tells whether they can run, `gpu` what the GPU has, `blocks` chooses block sizes, `launch`
holds small helpers: these four need no Triton. :mod:`mita_seg.ops` imports the other modules, which
do, when the backend is first used.
"""
