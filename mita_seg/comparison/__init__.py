"""Training, evaluating, measuring and drawing several configs side by side.

``plan`` says what is to be run; ``pool`` starts one ``worker`` process a run and ``display`` shows
them; ``measure`` times the trained models one after the other; ``report``, ``pictures`` and
``tradeoff`` rebuild every output from the files of all finished runs in the folder.
"""
