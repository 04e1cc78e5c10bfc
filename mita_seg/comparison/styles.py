"""Colours and markers that keep many configs apart."""

from mita_seg.utils.attention_colours import ATTENTION_COLOURS, find_attention

_MARKERS = 'o^sDvP<X'


def make_styles(names):
    """Choose a colour and a marker for each of several configs.

    The colour tells the attention; configs of the same attention differ in their markers. Names
    that tell none get the colours that are left.

    Args:
        names (Sequence[str]): Names of the configs; up to 56 differ in colour or marker.

    Returns:
        list[tuple[str, str]]: Colour and marker of matplotlib.
    """
    known = [ATTENTION_COLOURS.get(find_attention(name)) for name in names]
    left = [colour for colour in dict.fromkeys(ATTENTION_COLOURS.values()) if colour not in known]
    used, styles, unknown = {}, [], 0
    for colour in known:
        if colour is None:
            colour = left[unknown % len(left)] if left else '0.5'
            unknown += 1
        index = used[colour] = used.get(colour, -1) + 1
        styles.append((colour, _MARKERS[index % len(_MARKERS)]))
    return styles
