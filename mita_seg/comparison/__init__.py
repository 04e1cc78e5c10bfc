"""Training, evaluating, measuring and drawing several configs side by side.

``runs`` says what is to be run; ``workers`` starts one process of ``single_run`` a run and
``display`` shows them; ``measure`` times the trained models one after the other; ``results``,
``pictures`` and ``tradeoff`` rebuild every output from the files of all finished runs.
"""
