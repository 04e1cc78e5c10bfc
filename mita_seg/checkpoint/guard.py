"""MMEngine's own loading of checkpoints, made safe."""

from .loading import load_checkpoint_safely, load_pickle_safely
from .structure import check_structure


def guard_mmengine_loading():
    """Send every checkpoint that MMEngine loads in this process through the safe loader.

    ``Runner.load_checkpoint``, ``Runner.resume``, ``init_cfg`` and ``mmseg.apis`` all end in
    MMEngine's ``CheckpointLoader``. There MMEngine 0.10.7 cannot read its own checkpoints under
    current torch, and the maintained fork runs whatever code a pickle holds where a safe load
    fails. Its schemes of addresses keep working, and so do those that a program has registered;
    ``torch.load`` is left alone. May be called again.
    """
    from mmengine.runner import CheckpointLoader
    from mmengine.runner import checkpoint as mmengine_checkpoint

    CheckpointLoader.register_scheme(prefixes='', loader=load_from_file, force=True)
    addresses = ('http://', 'https://')
    CheckpointLoader.register_scheme(prefixes=addresses, loader=load_from_http, force=True)
    # What the loaders of its other schemes (torchvision://, open-mmlab://, s3://) call.
    mmengine_checkpoint.load_from_http = load_from_http
    if hasattr(mmengine_checkpoint, '_safe_torch_load'):
        mmengine_checkpoint._safe_torch_load = load_pickle


# MMEngine logs these names from the eleventh character on.
def load_from_file(filename, map_location=None):
    """Load a file in place of MMEngine's ``load_from_local``."""
    return _for_mmengine(load_checkpoint_safely(filename, map_location), filename)


def load_from_http(filename, map_location=None, model_dir=None, progress=True):
    """Load from an address in place of MMEngine's function of this name."""
    return _for_mmengine(load_checkpoint_safely(filename, map_location), filename)


def load_pickle(file, map_location=None, weights_only=True):
    """Load an open file in place of MMEngine's ``_safe_torch_load``."""
    return _for_mmengine(load_pickle_safely(file, map_location), 'of a stream')


def _for_mmengine(checkpoint, source):
    if isinstance(checkpoint, dict):
        check_structure(checkpoint, source)
        # Runner.resume would execute this text as a Python config.
        checkpoint.get('meta', {}).pop('config', None)
    return checkpoint
