"""Variants of a config, written ``CONFIG@LABEL:KEY=VALUE,KEY=VALUE`` on the command line."""

import argparse
import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path

_FORM = 'CONFIG@LABEL:KEY=VALUE,KEY=VALUE'
_ALIKE = 0.8  # 'modle' and 'model' are; 'drop_rate' and 'drop_path_rate' are not


@dataclass(frozen=True)
class Variant:
    """A config, perhaps with a name and settings of its own.

    Attributes:
        config (str): The config file.
        name (str): Name of its runs: the label, or the stem of the file's name.
        options (dict): What differs from the file, as ``DictAction`` parses it.
    """

    config: str
    name: str
    options: dict = field(default_factory=dict)


def parse_variant(text):
    """Read a config as ``tools/compare.py`` takes it.

    Args:
        text (str): ``CONFIG``, ``CONFIG@LABEL`` or ``CONFIG@LABEL:KEY=VALUE,KEY=VALUE``. Values are
            written as for ``--cfg-options``; commas within brackets or quotes are part of a value.

    Returns:
        Variant: What the text says; whether there is such a file is not looked at.

    Raises:
        ValueError: The label is empty or cannot name a folder, or what follows is no list of
            ``KEY=VALUE``.
    """
    found = re.fullmatch(r'(.+?\.(?:py|json|ya?ml))@([^:]*)(?::(.*))?', text, re.DOTALL)
    if not found:
        return Variant(text, Path(text).stem)
    config, label, options = found.groups()
    if not re.fullmatch(r'\w[\w.-]*', label):
        raise ValueError(
            f'{text!r}: the label must be of letters, digits, "_", "-" and ".", and begin with a '
            f'letter or digit; got {label!r} ({_FORM})'
        )
    return Variant(config, label, {} if options is None else _parse_options(options, text))


def check_keys(cfg, options):
    """Refuse keys that look like misspelt ones; others may be new.

    Args:
        cfg (Config): The config that the options are for.
        options (dict): By keys such as ``model.backbone.attn_cfg.topk``.

    Raises:
        ValueError: A part of a key is not in the config, but one that is very alike is.
    """
    for key in options:
        node, parts = cfg, key.split('.')
        for index, part in enumerate(parts):
            if isinstance(node, list | tuple):
                node = node[int(part)] if part.isdigit() and int(part) < len(node) else None
                continue
            if not hasattr(node, 'keys'):
                break
            if part not in node:
                alike = difflib.get_close_matches(part, node.keys(), 1, _ALIKE)
                if alike:
                    meant = '.'.join([*parts[:index], alike[0]])
                    raise ValueError(
                        f'option {key!r}: the config has no {part!r}, did you mean {meant!r}?'
                    )
                break
            node = node[part]


def _parse_options(text, whole):
    from mmengine.config import DictAction

    pairs = _split(text)
    keys = [pair.partition('=')[0] for pair in pairs]
    for pair, key in zip(pairs, keys, strict=True):
        if '=' not in pair or not re.fullmatch(r'[\w-]+(\.[\w-]+)*', key):
            raise ValueError(
                f'{whole!r}: {pair!r} is no KEY=VALUE ({_FORM}); a value with commas needs '
                'brackets, as in crop_size=(64,64)'
            )
        if any(pair.count(opening) != pair.count(closing) for opening, closing in ('()', '[]')):
            raise ValueError(f'{whole!r}: a bracket is not closed in {pair!r}')
        if keys.count(key) > 1:
            raise ValueError(f'{whole!r}: {key!r} is given twice')
    parser = argparse.ArgumentParser()
    parser.add_argument('--options', nargs='+', action=DictAction)
    return parser.parse_args(['--options', *pairs]).options


def _split(text):
    """Split at the commas outside of brackets and quotes."""
    pairs, depth, quote = [''], 0, None
    for character in text:
        if quote:
            quote = None if character == quote else quote
        elif character in '\'"':
            quote = character
        else:
            depth += (character in '([') - (character in ')]')
        if character == ',' and not quote and not depth:
            pairs.append('')
        else:
            pairs[-1] += character
    return pairs
