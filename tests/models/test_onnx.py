"""ONNX by PyTorch's older exporter, which traces; the newer one is that of tools/export.py."""

import io

import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

import mita_seg.models  # noqa: F401

FULL = {'type': 'FullAttention'}
MITA = {'type': 'MiTAAttention', 'landmarks': (2, 3), 'topk': 7, 'dwc': True, 'gate': True}


@pytest.fixture
def onnxruntime():
    pytest.importorskip('onnx', reason='onnx, of the extra export, is not installed')
    return pytest.importorskip(
        'onnxruntime', reason='onnxruntime, of the extra export, is not installed'
    )


def tiny_segmentor(encoder, decoder):
    init_default_scope('mmseg')
    backbone = {'type': 'MiTAVisionTransformer', 'img_size': (32, 48), 'patch_size': 8}
    backbone |= {'embed_dims': 32, 'num_layers': 1, 'num_heads': 2, 'attn_cfg': encoder}
    head = {'type': 'MiTAMaskTransformerHead', 'in_channels': 32, 'num_layers': 1}
    head |= {'num_classes': 5, 'attn_cfg': decoder}
    model = MODELS.build({'type': 'EncoderDecoder', 'backbone': backbone, 'decode_head': head})
    for parameter in model.parameters():  # tokens and embeddings start as zeros
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    ('encoder', 'decoder'), [(FULL, FULL), (FULL, MITA), (MITA, MITA)], ids=['full', 'dec', 'all']
)
def test_a_traced_onnx_file_serves_every_batch_and_size(encoder, decoder, onnxruntime):
    model = tiny_segmentor(encoder, decoder)
    file, dims = io.BytesIO(), {0: 'b', 2: 'h', 3: 'w'}
    torch.onnx.export(
        model,
        (torch.randn(2, 3, 32, 48),),
        file,
        dynamo=False,
        opset_version=17,
        input_names=['images'],
        output_names=['scores'],
        dynamic_axes={'images': dims, 'scores': dims},
    )
    session = onnxruntime.InferenceSession(file.getvalue())
    # The last one has fewer tokens than an expert has keys.
    for shape in ((1, 3, 32, 48), (3, 3, 96, 80), (1, 3, 16, 16)):
        images = torch.randn(shape)
        (scores,) = session.run(None, {'images': images.numpy()})
        with torch.no_grad():
            expected = model(images)
        torch.testing.assert_close(torch.from_numpy(scores), expected, atol=1e-4, rtol=1e-4)
