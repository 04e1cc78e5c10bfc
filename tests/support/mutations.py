"""Changes to the bytes of files and to values of JSON, drawn from a generator of random numbers."""

import copy
import io
import json
import struct
import zipfile

_NUMBERS = (0, 1, 127, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)
_VALUES = (
    None,
    True,
    -1,
    0,
    2**31,
    1e308,
    float('nan'),
    '',
    'x' * 40,
    '../x',
    [],
    {},
    [[]],
    [None],
)


def mutate(data, random):
    """Change some bytes.

    Args:
        data (bytes): A file.
        random (random.Random): Of which all is drawn.

    Returns:
        bytes: Another file.
    """
    changed = bytearray(data or b'\0')
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        _change(changed, random)
    return bytes(changed)


def _change(data, random):
    end = len(data)
    # Headers are at the start, directories of zip files at the end.
    zone = random.choice((range(end), range(min(end, 200)), range(max(0, end - 200), end)))
    place = random.choice(zone) if zone else 0
    kind = random.randrange(7)
    if kind == 0:
        del data[max(place, 1) :]
    elif kind == 1:
        data[place : place + 1] = bytes([data[place] ^ 1 << random.randrange(8)] if data else b'\0')
    elif kind == 2:
        data[place : place + 1] = bytes([random.choice((0, 255, random.randrange(256)))])
    elif kind == 3:
        del data[place : place + random.randrange(1, 64)]
    elif kind == 4:
        data[place:place] = random.randbytes(random.randrange(1, 16))
    elif kind == 5:
        pack = random.choice(('<Q', '>I', '<I', '>H', '<H'))
        number = random.choice(_NUMBERS) % 256 ** struct.calcsize(pack)
        data[place : place + struct.calcsize(pack)] = struct.pack(pack, number)
    else:
        data[place:place] = data[place : place + random.randrange(1, 200)]


def mutate_inside_zip(data, random):
    """Change one entry of a zip file, whose checksums are right again afterwards."""
    source, target = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    names = source.namelist()
    likely = [name for name in names if name.endswith('.pkl')]
    chosen = random.choice(likely if likely and random.random() < 0.7 else names)
    with zipfile.ZipFile(target, 'w') as archive:
        for name in names:
            content = source.read(name)
            archive.writestr(name, mutate(content, random) if name == chosen else content)
    return target.getvalue()


def mutate_json(text, random):
    """Replace, remove or repeat entries of a JSON document, or change its bytes.

    Args:
        text (bytes): A JSON document.
        random (random.Random): Of which all is drawn.

    Returns:
        bytes: Another one, which may be none.
    """
    if random.random() < 0.2:
        return mutate(text, random)
    value = copy.deepcopy(json.loads(text))
    for _ in range(random.choice((1, 1, 2, 3))):
        holders = list(_holders(value))
        holder = random.choice(holders)
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            continue
        key, kind = random.choice(keys), random.randrange(3)
        if kind == 0:
            holder[key] = copy.deepcopy(random.choice(_VALUES))
        elif kind == 1:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(random.choice(holders))
    return json.dumps(value).encode()


def _holders(value):
    """All dicts and lists of a value, itself first."""
    if isinstance(value, (dict, list)):
        yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from _holders(part)
