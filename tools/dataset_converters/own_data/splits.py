"""Training and validation images, with what belongs together kept together."""

import re
from collections import defaultdict

import numpy as np

_TRIES = 200
# A number at the end, and a word for what it counts.
_COUNTER = re.compile(r'([-_. ]?(frame|img|image|f|crop|tile|aug))?[-_. ]?\d+$', re.IGNORECASE)


def group_names(names, pattern=None):
    """Groups of images that file names suggest, such as the frames of one video.

    Args:
        names (Sequence[str]): Names without ending, with folders.
        pattern (str, optional): A regular expression; a group is what it matches, or its first
            parenthesis. ``'none'``: each image for itself. By default the name without the number
            at its end, where that makes several groups of at least two images each on average.

    Returns:
        list[str]: The group of each; its own name where there are none.

    Raises:
        ValueError: The pattern is none, or does not match a name.
    """
    if pattern == 'none':
        return list(names)
    if pattern is None:
        groups = [_COUNTER.sub('', name) or name for name in names]
        return groups if 2 <= len(set(groups)) <= len(names) / 2 else list(names)
    try:
        matches = [re.search(pattern, name) for name in names]
    except re.error as error:
        raise ValueError(f'--group {pattern!r} is no regular expression: {error}') from error
    if None in matches:
        raise ValueError(f'--group {pattern!r} does not match {names[matches.index(None)]!r}')
    return [match[1] if match.re.groups else match[0] for match in matches]


def choose_validation(groups, classes, share, seed=0):
    """Choose images for validation.

    Of many random choices the one is taken whose share is closest and whose training images hold
    every class, and its validation images most of them.

    Args:
        groups (Sequence[str]): The group of each image; none is torn apart.
        classes (ndarray): `[images, K]`, pixels of each class in each image.
        share (float): Wanted share of the images, above 0 and below 1.
        seed (int): Seed of the choices.

    Returns:
        ndarray: `[images]`, bool.

    Raises:
        ValueError: There is only one group.
    """
    members = defaultdict(list)
    for place, group in enumerate(groups):
        members[group].append(place)
    if len(members) < 2:
        raise ValueError(
            f'all {len(groups)} images are one group ({groups[0]!r}), of which none can be held '
            'back: --group none takes each image for itself'
        )
    held, random = np.asarray(classes) > 0, np.random.default_rng(seed)
    lists, best = list(members.values()), None
    for _ in range(_TRIES):
        chosen = np.zeros(len(groups), bool)
        for place in random.permutation(len(lists))[:-1]:  # one is left for training
            chosen[lists[place]] = True
            if chosen.mean() >= share:
                break
        lost = (held.any(0) & ~held[~chosen].any(0)).sum()
        unseen = (held.any(0) & ~held[chosen].any(0)).sum()
        cost = (lost, unseen + 5 * abs(chosen.mean() - share))
        if best is None or cost < best[0]:
            best = cost, chosen
    return best[1]
