"""Names of output files that tell the input files apart."""

import os
from collections import defaultdict
from pathlib import Path


def distinct_names(paths):
    """Shortest names that tell files apart.

    Args:
        paths (Sequence[str]): Paths of files, all absolute or all relative.

    Returns:
        dict[str, str]: The name of each: without folder and ending where no other is called so,
        else the path from the folder that those of this name share, with the ending where files
        differ in that alone. No two are equal.
    """
    alike = defaultdict(list)
    for path in dict.fromkeys(paths):
        alike[Path(path).stem].append(path)
    names = {}
    for stem, group in alike.items():
        if len(group) == 1:
            names[group[0]] = stem
            continue
        relative = _below_shared_folder(group)
        bare = [os.path.splitext(path)[0] for path in relative]
        for path, name, short in zip(group, relative, bare, strict=True):
            names[path] = name if bare.count(short) > 1 else short
    if len(set(names.values())) < len(names):  # '1.jpg' beside '1.png' and '1.jpg.png'
        names = dict(zip(names, _below_shared_folder(list(names)), strict=True))
    return names


def _below_shared_folder(paths):
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, shared) for path in paths]
