"""What ``tools/complexity.py`` does: cost of a model against the size of the image.

``measure`` counts and measures one model at one size, ``cost_report`` writes table and plot.
"""
