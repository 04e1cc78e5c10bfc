"""Training, evaluating, measuring and drawing several configs side by side.

``plan`` says what is to be run; ``pool`` starts one ``worker`` process a run and ``display`` shows
them; ``measure`` times the trained models one after the other; ``report`` and ``pictures`` rebuild
every output from the files of the runs.
"""
