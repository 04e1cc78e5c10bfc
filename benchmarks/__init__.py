"""Timing attention operators, their kernels, whole models and training loops.

This is what ``tools/benchmark.py`` does. A run goes through these files:

1. ``request`` checks what the command line asks for. ``cases`` are the sizes and ``backends`` the
   implementations that are compared.
2. ``operator``, ``kernels``, ``models`` and ``training`` measure; each returns rows of figures.
   They use ``correctness``, the check of the results; ``timing``, interleaved timing, memory and
   what is noted of failures; and ``bandwidth``, the bound on the time that memory sets.
3. ``report`` and ``plot`` show the rows.

``models`` and ``training`` need MMSegmentation, ``plot`` needs matplotlib, and the rest torch
alone.
"""
