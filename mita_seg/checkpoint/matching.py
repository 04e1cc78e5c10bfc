"""Refusing checkpoints that do not fit the model."""

from mita_seg.checkpoint.guard import load_from_file
from mita_seg.checkpoint.structure import weights_of
from mita_seg.utils.cli import user_errors


def require_matching_checkpoint(runner, prog, backbone_only=False):
    """Make a runner refuse a checkpoint that does not fit its model.

    MMEngine only logs the mismatch and goes on with random weights. What cannot be resumed, and
    pretrained weights that do not fit, end the program with a sentence too.

    Args:
        runner (Runner): The runner, before it has loaded anything.
        prog (str): Name of the tool, the prefix of the message.
        backbone_only (bool): Refuse only weights of the backbone of another shape, and a checkpoint
            of which nothing fits, so that training may start from a model for other classes.
    """
    load, resume = runner.load_checkpoint, runner.resume
    initialise = getattr(runner, '_init_model_weights', None)  # not of every kind of runner

    def load_strictly(filename, map_location='cpu', **kwargs):
        with user_errors(prog):
            try:
                if backbone_only:
                    return _load_what_fits(runner, load, filename, map_location, **kwargs)
                return load(filename, map_location, **{**kwargs, 'strict': True})
            except RuntimeError as error:
                raise ValueError(describe_mismatch(filename, error)) from error
            except ValueError as error:
                if str(filename) in str(error):
                    raise
                raise ValueError(f'checkpoint {filename!r}: {error}') from error

    def resume_or_refuse(filename, *args, **kwargs):
        with user_errors(prog):
            try:
                return resume(filename, *args, **kwargs)
            except (OSError, MemoryError):
                raise
            # MMEngine takes the state of a training as it finds it.
            except Exception as error:
                raise ValueError(
                    f'checkpoint {filename!r} cannot be resumed: the state of the training in it '
                    f'does not fit ({type(error).__name__}: {error})'
                ) from error

    def initialise_or_refuse():
        with user_errors(prog, (ValueError, FileNotFoundError)):  # of pretrained weights
            initialise()

    runner.load_checkpoint = load_strictly
    runner.resume = resume_or_refuse
    if initialise is not None:
        runner._init_model_weights = initialise_or_refuse


def describe_mismatch(filename, error):
    """The sentence about weights that a strict loader refused with a RuntimeError."""
    details = ' '.join(str(error).split())
    details = details if len(details) <= 600 else details[:600] + ' ...'
    return f'checkpoint {filename!r} does not fit the config: {details}'


def _load_what_fits(runner, load, filename, map_location, **kwargs):
    model = getattr(runner.model, 'module', runner.model)
    _try_backbone(model, filename)
    missing = set()
    # Modules rename weights while they load them, so that only loading tells what fits.
    handle = model.register_load_state_dict_post_hook(
        lambda module, keys: missing.update(keys.missing_keys)
    )
    try:
        checkpoint = load(filename, map_location, **kwargs)
    finally:
        handle.remove()
    weights = weights_of(checkpoint)
    own = model.state_dict()
    shapes = {name: getattr(value, 'shape', None) for name, value in weights.items()}
    other = {name for name, value in own.items() if shapes.get(name, value.shape) != value.shape}
    if own.keys() <= missing | other:
        raise ValueError(
            f'checkpoint {filename!r} holds no weight of the model: its first is '
            f'{next(iter(weights), "missing")}, that of the model {next(iter(own))}; weights of a '
            'backbone alone go to model.backbone.init_cfg.checkpoint'
        )
    return checkpoint


def _try_backbone(model, filename):
    """Load a checkpoint's backbone; torch raises RuntimeError where a shape differs."""
    backbone = getattr(model, 'backbone', None)
    if backbone is None:
        return
    weights = weights_of(load_from_file(filename))
    prefix = 'backbone.'
    own = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
    backbone.load_state_dict(own, strict=False)
