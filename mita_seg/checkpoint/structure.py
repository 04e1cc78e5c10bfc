"""Whether a checkpoint has the form that MMEngine and our tools take for granted."""

from collections.abc import Mapping


def check_structure(checkpoint, source):
    """Refuse a checkpoint that MMEngine's loading would stumble over.

    Args:
        checkpoint (dict): The content of a file.
        source (str): Its name, for the message.

    Raises:
        ValueError: ``state_dict`` or, without it, the checkpoint has names that are no text;
            ``state_dict`` or ``meta`` is no dict.
    """
    for part in ('state_dict', 'meta'):
        if not isinstance(checkpoint.get(part, {}), dict):
            raise ValueError(
                f'checkpoint {source!r} is refused: its {part} is a '
                f'{type(checkpoint[part]).__name__}, not a dict'
            )
    odd = [name for name in weights_of(checkpoint) if not isinstance(name, str)]
    if odd:
        raise ValueError(
            f'checkpoint {source!r} is refused: the name of a weight is a '
            f'{type(odd[0]).__name__}, not text'
        )


def weights_of(checkpoint):
    """Where MMEngine looks for weights: in ``state_dict`` or, without it, in the checkpoint."""
    return checkpoint.get('state_dict', checkpoint)


def meta_of(checkpoint):
    """``meta`` of a checkpoint; an empty dict where it has none, or something else.

    Args:
        checkpoint (dict | None): The content of a file, which may be anybody's.

    Returns:
        dict: What MMEngine notes beside weights.
    """
    meta = (checkpoint or {}).get('meta')
    return meta if isinstance(meta, dict) else {}


def plain_metadata(metadata):
    """The part of a state dict's ``_metadata`` that torch can read.

    Args:
        metadata: Of a file that may be anybody's.

    Returns:
        dict: Of dicts, by the names of modules.
    """
    if not isinstance(metadata, Mapping):
        return {}
    return {
        name: entry
        for name, entry in metadata.items()
        if isinstance(name, str) and isinstance(entry, dict)
    }
