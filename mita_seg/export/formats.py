"""The formats of files: how each is written, and run."""

import contextlib
import importlib.util
import io
import json
import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.export import ExportedProgram


class Format(NamedTuple):
    """A format of files."""

    ending: str
    packages: tuple[str, ...]  # beside PyTorch
    write: Callable[[ExportedProgram, str, dict[str, str]], None]
    open: Callable[[str], Callable[[Tensor], Tensor]]


def check_packages(name: str) -> None:
    """Make sure that what a format needs is installed.

    Raises:
        ValueError: It is not; the message says what to install.
    """
    missing = [p for p in FORMATS[name].packages if importlib.util.find_spec(p) is None]
    if missing:
        raise ValueError(
            f"--format {name} needs {', '.join(missing)}: pip install -e '.[export]' "
            f'(or pip install {" ".join(missing)}), which leaves an installed torch alone'
        )


def write_onnx(program: ExportedProgram, path: str, description: dict[str, str]) -> None:
    """Write an ONNX file; the weights are in it, up to the 2 GiB that ONNX allows.

    Raises:
        ValueError: PyTorch's exporter lacks one of the operations.
    """
    output = description['output'].split(':')[0]
    with _quiet():
        try:
            onnx = torch.onnx.export(
                program,
                (),
                input_names=['images'],
                output_names=[output],
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = ' '.join(str(error.__cause__ or error).split())[:300]
            raise ValueError(f'torch.onnx.export does not take the model: {reason}') from error
    onnx.model.metadata_props.update(description)
    onnx.save(path, external_data=False)


def open_onnx(path: str) -> Callable[[Tensor], Tensor]:
    """Run an ONNX file by ONNX Runtime on the CPU, on as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    return lambda images: torch.from_numpy(session.run(None, {'images': images.numpy()})[0])


def write_torch(program: ExportedProgram, path: str, description: dict[str, str]) -> None:
    """Write what ``torch.export.load`` reads, with the description as an extra file."""
    content = io.BytesIO()  # torch ends the whole process when it cannot write to a file
    torch.export.save(program, content, extra_files={'description.json': json.dumps(description)})
    with open(path, 'wb') as file:
        file.write(content.getbuffer())


def open_torch(path: str) -> Callable[[Tensor], Tensor]:
    """Run an exported program."""
    with open(path, 'rb') as file:
        return torch.export.load(file).module()


@contextlib.contextmanager
def _quiet():
    """Keep the exporter's remarks, on packages that nothing here needs, off the screen."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


FORMATS = {
    'onnx': Format('.onnx', ('onnx', 'onnxscript', 'onnxruntime'), write_onnx, open_onnx),
    'torch-export': Format('.pt2', (), write_torch, open_torch),
}
