"""For the tools: MMSegmentation imported without the remarks that it and its packages make."""

import contextlib
import io
import warnings

_PACKAGES = r'mm(cv|engine|seg)(\.|$)'


def import_mmseg_quietly():
    """Import MMSegmentation, if it is there, and ignore warnings of its packages from then on.

    What these packages print while they are imported, such as that an optional one is missing, is
    of no use to who runs a tool, and hides the one sentence that is.
    """
    warnings.filterwarnings('ignore', module=_PACKAGES)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(ImportError):
        import mmseg.datasets
        import mmseg.models  # noqa: F401
