"""Training, evaluating, measuring and drawing several configs side by side.

``runs`` says what is to be run; ``workers`` starts a process of ``single_run`` for each run and
shows how far it is; ``measure`` times the trained models one after the other; ``results`` and
``pictures`` rebuild every output from the files of all finished runs.
"""
