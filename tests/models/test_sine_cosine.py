"""The position embedding of sines and cosines: what it tells, and where it is used."""

import pytest
import torch

from mita_seg.models import MiTAVisionTransformer
from mita_seg.models.sine_cosine import sine_cosine_embedding

SMALL = {'img_size': (48, 64), 'embed_dims': 32, 'num_layers': 1, 'num_heads': 2}


def test_similarity_depends_on_the_offset_alone_and_is_highest_at_home():
    embedding = sine_cosine_embedding((5, 7), 32).double().view(5, 7, 32)
    here = torch.einsum('hwc,c->hw', embedding, embedding[2, 3])
    moved = torch.einsum('hwc,c->hw', embedding, embedding[3, 4])
    torch.testing.assert_close(moved[1:, 1:], here[:-1, :-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(here, here.flip(0).flip(1), atol=1e-5, rtol=0)
    assert here.argmax() == 2 * 7 + 3
    neighbours = here[2, 4], here[1, 3]
    assert max(neighbours) < here[2, 3]
    assert here[2, 5] < neighbours[0] and here[0, 3] < neighbours[1]


def test_rows_and_columns_have_a_half_each():
    embedding = sine_cosine_embedding((2, 3), 8).view(2, 3, 8)
    torch.testing.assert_close(embedding[0, :, :4], embedding[1, :, :4])
    torch.testing.assert_close(embedding[:, 0, 4:], embedding[:, 2, 4:])
    column = torch.arange(3.0)
    torch.testing.assert_close(embedding[0, :, 0], column.sin())
    torch.testing.assert_close(embedding[0, :, 3], (column / 100).cos())


def test_the_backbone_begins_with_it_and_learns_it():
    model = MiTAVisionTransformer(**SMALL, pos_embed_init='sine_cosine')
    model.init_weights()
    assert torch.equal(model.pos_embed[0, 1:], sine_cosine_embedding((3, 4), 32))
    assert 0 < model.pos_embed[0, 0].abs().max() < 0.1  # the class token has no place
    model(torch.randn(1, 3, 48, 64))[0].sum().backward()
    assert model.pos_embed.grad[0, 1:].abs().min(1).values.max() > 0


def test_without_it_the_embedding_is_small_and_random():
    model = MiTAVisionTransformer(**SMALL)
    model.init_weights()
    assert 0.01 < model.pos_embed[0, 1:].std() < 0.03


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'pos_embed_init': 'sincos'}, "'sine_cosine', got 'sincos'"),
        ({'pos_embed_init': 'sine_cosine', 'embed_dims': 30}, 'divisible by 4, got 30'),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MiTAVisionTransformer(**{**SMALL, **options})


def test_channels_without_a_quarter_are_refused():
    with pytest.raises(ValueError, match='multiple of 4, got 6'):
        sine_cosine_embedding((2, 2), 6)
