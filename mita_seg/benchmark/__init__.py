"""Timing attention operators and whole models against each other.

``cases`` and ``backends`` say what is compared, ``gate`` whether a backend computes the right
thing, ``timing``, ``memory`` and ``floor`` how a function is measured, ``race`` measures several in
turn and ``outcome`` notes why one dropped out. ``operator`` and ``models`` put that together;
``report`` and ``plot`` show the rows that they return. All but ``models`` need torch alone.
"""
