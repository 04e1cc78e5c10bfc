"""From a folder as people have it to a data set and its configs."""

import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mita_seg.inference.contact_sheet import ContactSheet
from mita_seg.inference.files import overlay
from mita_seg.utils.files import taking_place, write_json

from .chart import draw_frequencies
from .class_list import FILES, IGNORED, ClassList, code_text, read_class_file, settle_classes
from .coco import find_coco
from .config import IMAGENET, write_configs
from .labelme import find_labelme
from .masks import find_masks
from .splits import choose_validation, group_names
from .survey import Survey, read_pixels, survey
from .writer import common_suffix, write_pairs

MARK = 'dataset.json'


def no_progress(total, unit):
    """In place of a bar on the terminal."""
    return contextlib.nullcontext(lambda: None)


@dataclass
class Options:
    """What a user may settle.

    Attributes:
        classes (str, optional): File of the classes; by default one that lies in the folder.
        images (str, optional): Folder of the images, with `masks`.
        masks (str, optional): Folder of the masks, with `images`.
        ignored (Sequence[str]): Classes or values that are not to be learnt.
        ignore_unknown (bool): Whether values that are no class are ignored, not refused.
        unlabelled (str): ``'background'`` or ``'ignore'``: pixels without an outline.
        validation (float): Share of the images, above 0 and below 1.
        group (str, optional): As in :func:`group_names`.
        seed (int): Seed of the split.
        iters (int): Iterations of training in the configs.
        pretrained (str, optional): Weights that the backbone starts from.
    """

    classes: str | None = None
    images: str | None = None
    masks: str | None = None
    ignored: tuple = ()
    ignore_unknown: bool = False
    unlabelled: str = 'background'
    validation: float = 0.2
    group: str | None = None
    seed: int = 0
    iters: int = 4000
    pretrained: str | None = IMAGENET


@dataclass
class Plan:
    """What :func:`examine` found, and what :func:`write` is to make of it."""

    folder: Path
    out: Path
    options: Options
    problems: dict
    seen: Survey
    classes: ClassList
    pixels: np.ndarray
    splits: list


def examine(folder, out, options=None, say=print, progress=no_progress):
    """Look at a folder of images and masks: formats, pairs, sizes, classes, splits.

    Args:
        folder (str | os.PathLike): The folder.
        out (str | os.PathLike): Where the data set is to be written; nothing is yet.
        options (Options, optional): What is settled.
        say (Callable[[str], None]): Takes sentences about what was found.
        progress (Callable): ``progress(total, unit)`` gives a context manager of a function to be
            called after each step, as :func:`mita_seg.utils.progress_bar.progress_bar`.

    Returns:
        Plan: For :func:`write`; its `problems` are the files that are left out, by reason.

    Raises:
        ValueError: There is nothing to use, or what there is does not go together.
    """
    options = options or Options()
    folder, out = Path(folder), Path(out)
    _check(folder, out, options)
    found = _find(folder, options)
    with progress(len(found.pairs), 'pairs read') as advance:
        seen = survey(found, advance)
    say(f'{found.kind}: {len(seen.pairs)} pairs of image and mask, {seen.describe_sizes()}')
    for reason, files in found.problems.items():
        say(f'left out, {reason}: {len(files)}, such as {files[0]}')
    if seen.turned:
        say(
            f'{len(seen.turned)} images have an EXIF orientation, such as {seen.turned[0]}: pixels '
            'are taken as they are stored, and masks must show them so'
        )
    listed = _read_classes(folder, options, say)
    if found.by_colour and listed is None:
        raise ValueError(_ask_for_names(seen, folder))
    classes, outside = settle_classes(
        found, seen.pixels, listed, options.ignored, options.unlabelled
    )
    if outside:
        _tell_outside(outside, found, seen, options, say)
    pixels = _class_pixels(seen, classes)
    _tell_classes(classes, pixels, say)
    splits = _split(folder, seen, pixels, options, say)
    return Plan(folder, out, options, found.problems, seen, classes, pixels, splits)


def write(plan, say=print, progress=no_progress):
    """Write a data set that can be trained on.

    Below the plan's `out`: ``images`` and ``annotations`` with ``training``, ``validation`` and
    perhaps ``test``; ``class_frequencies.png``; ``samples.png``, some labels over their images;
    three configs; and ``dataset.json``, which says what was made of what. An earlier data set of
    this function is replaced.

    Args:
        plan (Plan): From :func:`examine`.
        say (Callable[[str], None]): Takes a sentence about what was written.
        progress (Callable): As for :func:`examine`.
    """
    out, seen, classes, splits = plan.out, plan.seen, plan.classes, plan.splits
    # Written beside the target and moved as a whole: an interrupted run leaves nothing behind.
    partial = out.with_name(out.name + '.partial')
    shutil.rmtree(partial, ignore_errors=True)
    with taking_place(partial, out):
        partial.mkdir(parents=True)
        suffix = common_suffix([pair.image for pair in seen.pairs])
        with progress(len(seen.pairs), 'pairs written') as advance:
            names = write_pairs(
                seen.pairs, splits, classes.index, classes.palette, partial, suffix, advance
            )
        draw_frequencies(
            partial / 'class_frequencies.png',
            classes.names,
            classes.palette,
            plan.pixels.sum(0),
            (plan.pixels > 0).sum(0),
        )
        _draw_samples(partial / 'samples.png', seen, classes)
        height, width = (int(np.median(side)) for side in np.array(seen.sizes).T)
        configs = write_configs(
            partial,
            out.name,
            out.resolve(),
            classes,
            suffix,
            (height, width),
            'test' in splits,
            plan.options.iters,
            plan.options.pretrained,
        )
        write_json(
            partial / MARK,
            {
                'source': str(plan.folder.resolve()),
                'classes': classes.names,
                'palette': classes.palette.tolist(),
                'files': {
                    f'{split}/{given}': str(pair.image)
                    for pair, split, given in zip(seen.pairs, splits, names, strict=True)
                },
                'left_out': plan.problems,
            },
        )
    say(f'written: {out}; to train: ' + ' or '.join(str(out / path.name) for path in configs))


def _check(folder, out, options):
    if not folder.is_dir():
        raise ValueError(f'folder {str(folder)!r} does not exist')
    if not 0 < options.validation < 1:
        raise ValueError(f'--validation must be above 0 and below 1, got {options.validation}')
    if options.iters < 1:
        raise ValueError(f'--iters must be at least 1, got {options.iters}')
    if out.resolve() == folder.resolve() or folder.resolve() in out.resolve().parents:
        raise ValueError(f'--out {str(out)!r} lies in the folder that is read, {str(folder)!r}')
    if out.resolve() in folder.resolve().parents:
        raise ValueError(f'--out {str(out)!r} holds the folder that is read, {str(folder)!r}')
    if out.exists() and not (out.is_dir() and ((out / MARK).is_file() or not any(out.iterdir()))):
        raise ValueError(f'--out {str(out)!r} holds other files; choose a new folder or empty it')


def _find(folder, options):
    """Pairs, by whatever format there is."""
    coco, labelme = {}, {}
    for file in sorted(folder.rglob('*.json')):
        try:
            content = json.loads(file.read_text(encoding='utf-8'))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and {'images', 'annotations', 'categories'} <= set(content):
            coco[file] = content
        elif isinstance(content, dict) and 'shapes' in content and 'imageHeight' in content:
            labelme[file] = content
    if options.images is None and options.masks is None:
        if coco:
            return find_coco(folder, coco)
        if labelme:
            return find_labelme(folder, labelme)
    return find_masks(folder, options.images, options.masks)


def _read_classes(folder, options, say):
    if options.classes:
        return read_class_file(Path(options.classes))
    for name in FILES:
        if (folder / name).is_file():
            say(f'classes from {folder / name}')
            return read_class_file(folder / name)
    return None


def _ask_for_names(seen, folder):
    codes = sorted(seen.pixels.items(), key=lambda item: -item[1])
    total = sum(seen.pixels.values())
    shown = ', '.join(
        f'{code_text(code, True)} {100 * count / total:.2g} %' for code, count in codes[:20]
    )
    more = f' and {len(codes) - 20} more' if len(codes) > 20 else ''
    return (
        f'the masks hold colours, {shown}{more}: say what they mean in '
        f'{str(folder / "classes.txt")!r} or --classes FILE, a line "name r g b" for each class'
    )


def _tell_outside(outside, found, seen, options, say):
    values = sorted(outside, key=outside.get, reverse=True)
    shown = ', '.join(code_text(code, found.by_colour) for code in values[:8])
    where = next(
        pair.mask for pair, codes in zip(seen.pairs, seen.codes, strict=True) if values[0] in codes
    )
    share = 100 * sum(outside.values()) / sum(seen.pixels.values())
    sentence = (
        f'{len(values)} values of the masks are no class: {shown}'
        + (', ...' if len(values) > 8 else '')
        + f' ({share:.2g} % of the pixels; the first in {where})'
    )
    if not options.ignore_unknown:
        raise ValueError(f'{sentence}; --ignore-unknown leaves these pixels out of training')
    say(f'{sentence}; they are ignored')


def _class_pixels(seen, classes):
    """Pixels of each class in each image, `[images, K]`."""
    pixels = np.zeros((len(seen.pairs), len(classes.names)), np.int64)
    for row, codes in zip(pixels, seen.codes, strict=True):
        for code, count in codes.items():
            place = classes.index.get(code, IGNORED)
            if place != IGNORED:
                row[place] += count
    return pixels


def _tell_classes(classes, pixels, say):
    total = pixels.sum()
    if not total:
        raise ValueError('no pixel of the masks is of a class')
    say(f'{len(classes.names)} classes (share of the labelled pixels, number of images):')
    width = max(map(len, classes.names))
    for name, count, images in zip(classes.names, pixels.sum(0), (pixels > 0).sum(0), strict=True):
        say(f'    {name:<{width}}  {100 * count / total:6.2f} %  {images}')


def _split(folder, seen, pixels, options, say):
    """The split of each pair: as folders name it, and otherwise by groups."""
    splits = [pair.split for pair in seen.pairs]
    if not {'training', 'validation'} <= set(splits):
        free = [place for place, split in enumerate(splits) if split != 'test']
        names = [
            seen.pairs[place].image.relative_to(folder).with_suffix('').as_posix() for place in free
        ]
        if not free:
            raise ValueError('all images are in a folder of tests: none is left for training')
        groups = group_names(names, options.group)
        chosen = choose_validation(groups, pixels[free], options.validation, options.seed)
        for place, held_back in zip(free, chosen, strict=True):
            splits[place] = 'validation' if held_back else 'training'
        if len(set(groups)) < len(groups):
            say(
                f'split by {len(set(groups))} groups that file names suggest, such as '
                f'{groups[0]!r}; --group REGEX or --group none changes that'
            )
    else:
        splits = [split or 'training' for split in splits]
        say('split as the folders name it')
    counts = {split: splits.count(split) for split in ('training', 'validation', 'test')}
    say(', '.join(f'{count} for {split}' for split, count in counts.items() if count))
    return splits


def _draw_samples(path, seen, classes):
    sheet = ContactSheet(classes.names, classes.palette)
    places = np.unique(np.linspace(0, len(seen.pairs) - 1, 12).round().astype(int))
    for pair in (seen.pairs[place] for place in places):
        codes = pair.read_codes()
        values, inverse = np.unique(codes, return_inverse=True)
        table = np.array([classes.index.get(code, IGNORED) for code in values.tolist()], np.uint8)
        labels = table[inverse].reshape(codes.shape)
        sheet.add(
            pair.image.name, *overlay(read_pixels(pair.image), labels, classes.palette), labels
        )
    sheet.save(path)
