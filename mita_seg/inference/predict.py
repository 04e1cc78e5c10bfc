"""From files to label maps, overlays and a contact sheet."""

import contextlib
from pathlib import Path

from mita_seg.datasets.orientation import exif_orientation
from mita_seg.utils.distinct_names import distinct_names

from .contact_sheet import ContactSheet
from .files import OverlayVideo, overlay, write_classes, write_labels, write_overlay
from .sources import is_video, read_frames


def predict_files(segmentor, paths, out, on_bad, advance):
    """Predict images and videos.

    Written are ``labels/NAME.png`` (the palette's colours; values as in label files of the data
    set), ``overlays/NAME.jpg``, ``classes.json`` and ``contact_sheet.png``; of a video
    ``labels/NAME/000000.png`` for each frame and ``overlays/NAME.mp4``. Names are those of the
    files, with as much of their paths as tells them apart.

    Args:
        segmentor (Segmentor): The model.
        paths (Sequence[str]): Absolute paths, as from ``find_sources``.
        out (str | os.PathLike): The folder.
        on_bad (Callable[[str, Exception], None]): Called for a file that cannot be read.
        advance (Callable[[], None]): Called after each image, each frame and each bad file.

    Returns:
        list[str]: The images with an EXIF orientation, which were read as their pixels are stored.
    """
    out = Path(out)
    names = distinct_names(paths)
    turned = []
    sheet = ContactSheet(segmentor.classes, segmentor.palette)

    def report(key, error):
        on_bad(key[0], error)
        advance()

    def images():
        for path in paths:
            if not is_video(path):
                yield (path, names[path], None), path
                continue
            try:
                for index, (frame, rate) in enumerate(read_frames(path)):
                    yield (path, f'{names[path]}/{index:06d}', rate), frame
            except ValueError as error:
                report((path,), error)

    with contextlib.ExitStack() as videos:
        current, video = None, None
        for (path, name, rate), image, labels in segmentor.stream(images(), on_bad=report):
            shown, blend = overlay(image, labels, segmentor.palette)
            write_labels(
                out / 'labels' / f'{name}.png', labels, segmentor.palette, segmentor.first_value
            )
            if rate is None:
                write_overlay(out / 'overlays' / f'{name}.jpg', blend)
                if _is_turned(path):
                    turned.append(path)
            else:
                if path != current:
                    videos.close()
                    size = blend.shape[1::-1]
                    video = videos.enter_context(
                        OverlayVideo(out / 'overlays' / f'{names[path]}.mp4', size, rate)
                    )
                    current = path
                video.write(blend)
            sheet.add(name, shown, blend, labels)
            advance()
    write_classes(out / 'classes.json', segmentor.classes, segmentor.palette, segmentor.first_value)
    sheet.save(out / 'contact_sheet.png')
    return turned


def _is_turned(path):
    try:
        return exif_orientation(path) != 1
    except Exception:  # of a kind that Pillow does not know
        return False
