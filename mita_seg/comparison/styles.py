"""Colours and markers that keep many configs apart."""

# Okabe and Ito's colours, which colour-blind readers can tell apart; yellow is too pale on white.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
_MARKERS = 'o^sDvP<X'


def make_styles(count):
    """Choose a colour and a marker for each of several configs.

    Args:
        count (int): Number of configs; up to 56 differ in colour or marker.

    Returns:
        list[tuple[str, str]]: Colour and marker of matplotlib.
    """
    return [
        (_COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]) for index in range(count)
    ]
