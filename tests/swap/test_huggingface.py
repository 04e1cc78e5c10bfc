"""Hugging Face's ViT, DeiT, DINOv2, DINOv3 and DPT."""

import pytest
import torch

from mita_seg import restore_attention, swap_attention
from support.swap_contract import EVERYTHING, USUAL, SwapContract, import_or_skip

transformers = import_or_skip('transformers')

SMALL = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 2}
SMALL |= {'intermediate_size': 64, 'image_size': 64, 'patch_size': 16}
SMALL |= {'hidden_dropout_prob': 0.0, 'attention_probs_dropout_prob': 0.0}


def build(name, implementation='sdpa', **options):
    """A model or backbone of a family, from its config alone."""
    family = name.removesuffix('Model').removesuffix('Backbone')
    for head in ('ForSemanticSegmentation', 'ForImageClassification'):
        family = family.removesuffix(head)
    config = getattr(transformers, f'{family}Config')(**{**SMALL, **options})
    config._attn_implementation = implementation
    return getattr(transformers, name)(config)


class HuggingFace(SwapContract):
    alike = ((64, 64), (32, 128))

    def checkpoint(self, model):
        model.gradient_checkpointing_enable()

    def run(self, model, images):
        return model(images).last_hidden_state


class TestViT(HuggingFace):
    def build(self):
        return build('ViTModel', add_pooling_layer=False)

    def run(self, model, images):
        return model(images, interpolate_pos_encoding=True).last_hidden_state


class TestEagerClassifier(TestViT):
    def build(self):
        return build('ViTForImageClassification', implementation='eager')

    def run(self, model, images):
        return model(images, interpolate_pos_encoding=True).logits


class TestDeiT(TestViT):
    def build(self):
        return build('DeiTModel')


class TestDinov2(HuggingFace):
    def build(self):
        return build('Dinov2Model')


class TestDinov2Backbone(HuggingFace):
    def build(self):
        return build('Dinov2Backbone', out_indices=[2])

    def run(self, model, images):
        return model(images).feature_maps[0]


class TestDinov2WithRegisters(HuggingFace):
    def build(self):
        return build('Dinov2WithRegistersModel', num_register_tokens=4)


class TestDINOv3(HuggingFace):
    def build(self):
        return build('DINOv3ViTModel', num_register_tokens=4, pos_embed_rescale=None)


class TestDPT(HuggingFace):
    def build(self):
        return build('DPTModel', backbone_out_indices=[0, 1, 1, 1])


class TestDPTSegmenter(SwapContract):
    sizes = ((64, 64),)  # its neck takes square images alone

    def build(self):
        return build(
            'DPTForSemanticSegmentation',
            is_hybrid=False,
            num_hidden_layers=4,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 8, 8, 8],
            fusion_hidden_size=8,
            num_labels=5,
            semantic_classifier_dropout=0.0,
        )

    def run(self, model, images):
        return model(images).logits


@pytest.fixture
def model():
    return swap_attention(build('ViTModel').eval(), USUAL)


def test_landmarks_leave_out_special_tokens():
    model = swap_attention(build('Dinov2WithRegistersModel', num_register_tokens=4).eval(), USUAL)
    model(torch.randn(1, 3, 32, 96))
    (grid,) = {module.mita.grid.locate(17) for module in model.modules() if hasattr(module, 'mita')}
    assert grid == ((2, 6), 5)


def test_attention_weights_are_refused(model):
    images = torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match='no attention weights to return'):
        model(images, output_attentions=True)
    assert model(images, output_attentions=False).last_hidden_state.isfinite().all()
    restore_attention(model)
    model.set_attn_implementation('eager')
    assert len(model(images, output_attentions=True).attentions) == 2


def test_attention_weights_asked_for_by_the_config_are_refused():
    model = swap_attention(build('ViTModel', 'eager', output_attentions=True).eval(), USUAL)
    with pytest.raises(ValueError, match='no attention weights to return'):
        model(torch.randn(1, 3, 64, 64))


def test_attention_dropout_is_refused_in_training_alone():
    model = swap_attention(build('ViTModel', attention_probs_dropout_prob=0.1).train(), EVERYTHING)
    images = torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match='no attention dropout, got 0.1: set the config'):
        model(images)
    assert model.eval()(images).last_hidden_state.isfinite().all()


def test_chosen_layers_alone_change_whatever_the_models_implementation():
    model = build('ViTModel').eval()
    names = [name for name, module in model.named_modules() if hasattr(module, 'scaling')]
    swap_attention(model, USUAL, layers=[names[1]])
    model.set_attn_implementation('eager')
    swapped = [name for name, module in model.named_modules() if hasattr(module, 'mita')]
    assert swapped == names[1:]
    assert model(torch.randn(1, 3, 64, 64)).last_hidden_state.isfinite().all()
    assert model.get_submodule(names[1]).config._attn_implementation == 'mita_seg'


def test_a_swapped_model_is_saved_as_the_original(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = transformers.ViTModel.from_pretrained(tmp_path).eval()
    assert loaded.config._attn_implementation == 'sdpa'
    images = torch.randn(1, 3, 64, 64)
    expected = model(images).last_hidden_state
    assert torch.equal(swap_attention(loaded, USUAL)(images).last_hidden_state, expected)


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('BeitModel', {'use_relative_position_bias': True}),
        ('SwinModel', {'embed_dim': 16, 'depths': [1], 'num_heads': [2], 'window_size': 4}),
    ],
)
def test_bias_tables_are_refused(name, options):
    config = getattr(transformers, name.replace('Model', 'Config'))
    options = {**(SMALL if name == 'BeitModel' else {'image_size': 64}), **options}
    with pytest.raises(ValueError, match='table of relative position biases'):
        swap_attention(getattr(transformers, name)(config(**options)), USUAL)


@pytest.mark.parametrize('layers', [None, 'head'])
def test_attention_pooling_without_its_encoder_is_refused(layers):
    model = build('SiglipVisionModel')
    message = (
        'not known here: .*SiglipAttention.*pools tokens' if layers is None else 'pools tokens'
    )
    with pytest.raises(ValueError, match=message):
        swap_attention(model, USUAL, layers=layers)
    assert not any(hasattr(module, 'mita') for module in model.modules())
