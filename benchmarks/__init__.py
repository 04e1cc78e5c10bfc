"""Timing attention operators, their kernels, whole models and training loops.

``plan`` checks what the command line asks for. ``cases`` and ``backends`` say what is compared,
``gate`` whether a backend computes the right thing, ``timing``, ``memory`` and ``floor`` how a
function is measured, ``race`` measures several in turn and ``outcome`` notes why one dropped out.
``operator``, ``kernels``, ``models`` and ``training`` put that together, the second with
``kernel_times`` and ``kernel_bytes``; ``report``, ``kernel_report``, ``training_report`` and
``plot`` show the rows that they return, in ``formats``. ``models`` and ``training`` need
MMSegmentation, ``plot`` needs matplotlib, and the rest torch alone.
"""
