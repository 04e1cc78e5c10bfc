"""Names short enough for pictures and progress bars."""


def short_names(stems):
    """Config names without the parts that all of them share.

    Args:
        stems (Sequence[str]): Names such as ``mita-segmenter_vit-t_full_8xb1-160k_ade20k-512x512``.

    Returns:
        list[str]: Such as ``full``; the stems themselves where nothing can be left out.
    """
    parts = [stem.split('_') for stem in stems]
    if len(stems) < 2 or len({len(part) for part in parts}) > 1:
        return list(stems)
    differing = [len(set(column)) > 1 for column in zip(*parts, strict=True)]
    return [
        '_'.join(token for token, differs in zip(part, differing, strict=True) if differs)
        for part in parts
    ]
