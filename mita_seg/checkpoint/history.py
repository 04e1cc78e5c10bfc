"""MMEngine's log buffers as plain data."""

_MARK = 'mmengine.HistoryBuffer'


def plain_history(logs, counts, max_length):
    """What stands for a ``HistoryBuffer`` in a checkpoint.

    Args:
        logs, counts (ndarray): `[n]`, its two histories.
        max_length (int): How many entries it keeps.

    Returns:
        dict: Of tensors, which :func:`read_history` turns back.
    """
    import torch

    return {_MARK: (torch.from_numpy(logs.copy()), torch.from_numpy(counts.copy()), max_length)}


def read_history(plain):
    """Turn back what :func:`plain_history` made.

    Args:
        plain (dict): Any dict; the file that it is from may be anybody's.

    Returns:
        HistoryBuffer | dict | None: The buffer, a dict where MMEngine is not installed, None if it
        stands for none.
    """
    import torch

    parts = plain.get(_MARK) if len(plain) == 1 else None
    if not isinstance(parts, tuple) or len(parts) != 3:
        return None
    *histories, max_length = parts
    if not all(isinstance(part, torch.Tensor) and part.dim() == 1 for part in histories):
        return None
    if len(histories[0]) != len(histories[1]) or type(max_length) is not int:
        return None
    return history(*(part.cpu().numpy() for part in histories), max_length)


def history(logs, counts, max_length):
    """A ``HistoryBuffer``; a dict where MMEngine is not installed."""
    try:
        from mmengine.logging import HistoryBuffer
    except ImportError:
        return {'log_history': logs, 'count_history': counts, 'max_length': max_length}
    return HistoryBuffer(logs, counts, max_length)
