"""Whether a checkpoint was trained with the attention that a config evaluates it with."""

import ast

from .structure import meta_of

_PARTS = ('backbone', 'decode_head')
_OURS = ('MiTAVisionTransformer', 'MiTAMaskTransformerHead')
_SWAPPED = 'build_swapped'
_FULL, _MITA = 'FullAttention', 'MiTAAttention'


def describe_other_attention(checkpoint, cfg):
    """Say so where attention differs between training and evaluation, which weights do not show.

    Args:
        checkpoint (dict): A checkpoint of MMEngine, which keeps its config as text; the text is
            read, not executed.
        cfg (Config): The config of the evaluation.

    Returns:
        str | None: One sentence; None where they agree or nothing is known of the training.
    """
    text = meta_of(checkpoint).get('cfg')
    trained = _kinds(_model_of(text)) if isinstance(text, str) else {}
    evaluated = _kinds(cfg.get('model'))
    differing = [part for part in trained if trained[part] != evaluated.get(part, trained[part])]
    if not differing:
        return None
    parts = '; '.join(f'{part}: {trained[part]}, now {evaluated[part]}' for part in differing)
    return f'the checkpoint was trained with another attention than it is evaluated with ({parts})'


def _kinds(model):
    """The names of the attention in each part of a model; stock parts attend in full."""
    if not isinstance(model, dict):
        return {}
    found = {}
    for part in _PARTS:
        settings = model.get(part)
        if not isinstance(settings, dict):
            continue
        default = _MITA if _name(settings.get('type')) in _OURS else _FULL
        attn_cfg = settings.get('attn_cfg')
        if _name(model.get('type')) == _SWAPPED:
            default, attn_cfg = _MITA, model.get('attn_cfg')
        each = attn_cfg if isinstance(attn_cfg, list | tuple) else [attn_cfg]
        names = [
            _name(one.get('type', default)) if isinstance(one, dict) else default for one in each
        ]
        found[part] = ' and '.join(dict.fromkeys(names))
    return found


def _name(kind):
    """The last part of the name of a type, which configs give as text or as a class."""
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


def _model_of(text):
    """What a config's text assigns to ``model``, as plain data."""
    try:
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets) == 'model':
                return _plain(node.value)
    # Of a stranger's checkpoint, the text may be anything.
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        pass
    return None


def _plain(node):
    """The value of a literal or of a call of ``dict`` with keywords; None for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        return {keyword.arg: _plain(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        return dict(zip(map(_plain, node.keys), map(_plain, node.values), strict=True))
    if isinstance(node, ast.List | ast.Tuple):
        return [_plain(each) for each in node.elts]
    return node.value if isinstance(node, ast.Constant) else None
