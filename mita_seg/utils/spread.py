"""A few of many."""


def spread(size, count):
    """Indices of `count` of `size` entries, or of all, spread evenly over them.

    Args:
        size (int): How many there are.
        count (int): How many are wanted.

    Returns:
        list[int]: In rising order.
    """
    count = min(count, size)
    return [index * size // count for index in range(count)]
