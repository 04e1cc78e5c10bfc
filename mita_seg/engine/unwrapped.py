"""The model of a runner, without what spreads it over several processes."""

from mmengine.model import is_model_wrapper


def unwrapped_model(runner):
    """The model itself.

    Args:
        runner (Runner): The runner.

    Returns:
        nn.Module: Its model, out of DistributedDataParallel or another wrapper.
    """
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def run_eagerly(model, reason, wanted):
    """Switch the compilation of a model's training pass, if it has any; see CompiledEncoderDecoder.

    Args:
        model (nn.Module): The model.
        reason (str): Why.
        wanted (bool): Whether the reason holds from now on.
    """
    if hasattr(model, 'run_eagerly'):
        model.run_eagerly(reason, wanted)
