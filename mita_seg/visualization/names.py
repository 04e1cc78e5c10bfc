"""Names of layers short enough for pictures."""


def short_layer_names(names):
    """Names of layers without what tells nothing, where they still differ then.

    Args:
        names (Sequence[str]): Such as ``backbone.layers.0.attn``.

    Returns:
        list[str]: Such as ``backbone 0``.
    """
    idle = {'layers', 'attn', 'mita', 'attention', 'blocks', 'decode_head', 'self_attn'}
    short = [
        ' '.join(
            ['decoder'] * name.startswith('decode_head')
            + [part for part in name.split('.') if part not in idle]
        )
        for name in names
    ]
    return short if len(set(short)) == len(short) and all(short) else list(names)
