"""Errors against float64, beside those of plain operations in the same dtype."""

import pytest
import torch
from operator_cases import DEVICE, make_inputs, on_device, with_gradients

pytest.importorskip('triton')


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('scale', [0.1, 1, 10])
def test_precision_is_that_of_plain_operations(dtype, scale):
    """With every key in every expert, errors come from arithmetic alone."""
    if dtype == torch.bfloat16 and DEVICE == 'cpu':
        pytest.skip("Triton's interpreter has no bfloat16")
    tensors, _ = make_inputs('usual', requires_grad=False)
    tensors = on_device([tensor * scale for tensor in tensors], dtype)
    exact = with_gradients(on_device(tensors, torch.float64), topk=64)

    def errors(backend):
        results = with_gradients(tensors, topk=64, backend=backend)
        return [
            (result.double() - wanted).norm() / wanted.norm()
            for result, wanted in zip(results, exact, strict=True)
        ]

    for name, kernel, plain in zip(
        ('output', 'query', 'key', 'value', 'landmarks'),
        errors('triton'),
        errors('reference'),
        strict=True,
    ):
        assert kernel <= (2 if name == 'output' else 3) * plain, name
