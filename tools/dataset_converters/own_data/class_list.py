"""Which code is which class."""

import json
import re
from dataclasses import dataclass

import numpy as np

from mita_seg.utils.palette import distinct_colours

FILES = ('classes.txt', 'classes.csv', 'classes.json', 'class_dict.csv', 'labelmap.txt')
IGNORED = 255
_MOST = 254


@dataclass
class ClassList:
    """The classes of a data set.

    Attributes:
        names (list[str]): Their names.
        palette (ndarray): `[K, 3]`, uint8, RGB.
        index (dict[int, int]): The class of each code; 255 for those that are ignored.
    """

    names: list[str]
    palette: np.ndarray
    index: dict[int, int]


def read_class_file(path):
    """Read a list of classes.

    JSON: a list of names, a list of ``{"name":, "color": [r, g, b], "value":}`` or a dict of name
    and colour. Otherwise a class a line: its name, and before or behind it three numbers of its
    colour, if any; words at the top such as ``name,r,g,b`` are left out.

    Args:
        path (Path): The file.

    Returns:
        list[tuple[str, tuple | None, int]]: Name, colour (R, G, B) and value of each class; values
        count from 0 where the file says none.

    Raises:
        ValueError: It cannot be read, holds no class or one name twice.
    """
    try:
        text = path.read_text(encoding='utf-8-sig')
        entries = _from_json(json.loads(text)) if path.suffix == '.json' else _from_lines(text)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = ' '.join(str(error).split())
        raise ValueError(f'class list {str(path)!r} cannot be read: {reason}') from error
    names = [name for name, _, _ in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        what = f'names {twice[0]!r} twice' if twice else 'names no class'
        raise ValueError(f'class list {str(path)!r} {what}')
    return entries


def settle_classes(found, counts, listed=None, ignored=(), unlabelled='background'):
    """Decide which code is which class.

    Args:
        found (Found): What the folder holds.
        counts (dict[int, int]): Pixels of each code that occurs.
        listed (list, optional): What `read_class_file` read.
        ignored (Sequence[str]): Names of classes, or codes of indices, that are not to be learnt.
        unlabelled (str): Whether pixels without an outline are a class, ``'background'``, or
            ``'ignore'``.

    Returns:
        tuple[ClassList, dict[int, int]]: The classes; and the codes that occur but are none, with
        their pixels.

    Raises:
        ValueError: Colours need a list, names are unknown, or there are more than 254 classes.
    """
    if found.names is not None:
        entries = _of_outlines(found.names, counts, unlabelled)
    elif found.by_colour:
        if listed is None or any(colour is None for _, colour, _ in listed):
            raise ValueError('masks of colours need a class list with a colour for each name')
        entries = [(name, colour, _code(colour)) for name, colour, _ in listed]
    elif listed is not None:
        entries = list(listed)
        # Two classes drawn as black and white.
        if len(entries) == 2 and set(counts) <= {0, 255}:
            entries[1] = (entries[1][0], entries[1][1], 255)
    else:
        entries = _of_indices(counts)
    entries = [(name, colour or found.palette.get(code), code) for name, colour, code in entries]
    index = {}
    if not found.by_colour and not any(code == IGNORED for _, _, code in entries):
        index[IGNORED] = IGNORED
    if found.names is not None and not any(code == 0 for _, _, code in entries):
        index[0] = IGNORED
    unknown = set(ignored) - {name for name, _, _ in entries} - {str(code) for code in counts}
    if unknown:
        raise ValueError(f'--ignore {min(unknown)!r} is neither a class nor a value of the masks')
    index.update({code: IGNORED for code in counts if not found.by_colour and str(code) in ignored})
    kept = [e for e in entries if e[0] not in ignored and index.get(e[2]) != IGNORED]
    index.update({code: IGNORED for name, _, code in entries if name in ignored})
    if not 1 <= len(kept) <= _MOST:
        raise ValueError(f'{len(kept)} classes were found; 1 to {_MOST} are accepted')
    palette = distinct_colours(len(kept))
    for place, (_, colour, code) in enumerate(kept):
        index[code] = place
        if colour is not None:
            palette[place] = colour
    if (palette == palette[:, :1]).all() or len(np.unique(palette, axis=0)) < len(kept):
        palette = distinct_colours(len(kept))  # in place of greys, or of one colour for two
    outside = {code: count for code, count in counts.items() if code not in index}
    return ClassList([name for name, _, _ in kept], palette, index), outside


def code_text(code, by_colour):
    """A code as people write it: a number, or a colour."""
    return f'({code >> 16}, {code >> 8 & 255}, {code & 255})' if by_colour else str(code)


def _of_outlines(names, counts, unlabelled):
    entries = [(name, None, code) for code, name in names.items()]
    if unlabelled == 'ignore' or not counts.get(0):
        return entries
    return [('background', (0, 0, 0), 0), *(e for e in entries if e[0] != 'background')]


def _of_indices(counts):
    if set(counts) == {0, 255}:
        return [('background', None, 0), ('foreground', None, 255)]
    highest = max((code for code in counts if code != IGNORED), default=0)
    return [(f'class {code}', None, code) for code in range(min(highest, _MOST) + 1)]


def _code(colour):
    red, green, blue = colour
    return red << 16 | green << 8 | blue


def _from_json(content):
    if isinstance(content, dict):
        content = [{'name': name, 'color': colour} for name, colour in content.items()]
    entries = []
    for place, each in enumerate(content):
        if isinstance(each, str):
            entries.append((each, None, place))
            continue
        colour = each.get('color', each.get('colour'))
        colour = None if colour is None else tuple(int(part) for part in colour)
        if colour is not None and (len(colour) != 3 or not all(0 <= p <= 255 for p in colour)):
            raise ValueError(f'{each["name"]!r} has the colour {colour}')
        entries.append((str(each['name']), colour, int(each.get('value', place))))
    return entries


def _from_lines(text):
    entries = []
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith('# '):
            continue
        words = [word for word in re.split(r'[,;:\t ]+', line) if word]
        if {word.lower() for word in words[1:]} == {'r', 'g', 'b'}:
            continue
        colour = None
        for numbers, rest in ((words[-3:], words[:-3]), (words[:3], words[3:])):
            if rest and all(re.fullmatch(r'\d+', word) for word in numbers):
                colour, words = tuple(map(int, numbers)), rest
                break
        if colour is not None and max(colour) > 255:
            raise ValueError(f'the line {line!r} has a colour above 255')
        entries.append((' '.join(words), colour, len(entries)))
    return entries
