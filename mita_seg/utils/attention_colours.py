"""The colour of each attention in every picture."""

# Mostly Okabe and Ito's, which colour-blind readers can tell apart; their yellow is too pale on
# white. Keys are words in the names of configs.
ATTENTION_COLOURS = {
    'full': '#0072B2',
    'stock-head': '#0072B2',  # full attention too, as MMSegmentation computes it
    'mita-encdec': '#D55E00',
    'mita-dec': '#E69F00',
    'mita-attnonly': '#332288',
    'mita-compress': '#CC79A7',
    'mita-route': '#009E73',
    'mita-s2': '#999933',
    'mita-invdim': '#882255',
    'mita-dwc': '#000000',
    'mita-dwc-gate': '#56B4E9',
}
FULL_COLOUR = ATTENTION_COLOURS['full']
MITA_COLOUR = ATTENTION_COLOURS['mita-encdec']


def find_attention(name):
    """The attention that a config's name tells.

    Args:
        name (str): Such as ``mita-segmenter_vit-t-p16_mita-encdec-stock-recipe_1xb16-4k_camvid``.

    Returns:
        str | None: A key of ``ATTENTION_COLOURS``, such as ``mita-encdec``; the longest that a part
        of the name is or begins with.
    """
    found = [
        attention
        for attention in ATTENTION_COLOURS
        for part in name.split('_')
        if f'{part}-'.startswith(f'{attention}-')
    ]
    return max(found, key=len, default=None)
