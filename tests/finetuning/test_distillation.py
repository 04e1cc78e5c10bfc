"""Layers compared with those of a teacher with full attention."""

import gc
import weakref

import pytest
import torch
from torch import nn

from mita_seg.finetuning import FULL, Distillation, make_teacher
from mita_seg.finetuning.distillation import relative_error, target_modules
from mita_seg.layers import FullAttention, MiTAAttention, TransformerBlock
from mita_seg.swap import swap_attention

GRID = (6, 7)


class Encoder(nn.Module):
    def __init__(self, attention=MiTAAttention, with_cp=False):
        super().__init__()
        options = {} if attention is FullAttention else {'landmarks': (2, 2), 'topk': 3}
        self.blocks = nn.ModuleList(
            TransformerBlock(16, attention(16, 2, **options), with_cp=with_cp) for _ in range(2)
        )

    def forward(self, x):
        for block in self.blocks:
            x = block(x, GRID, 0)
        return x


@pytest.fixture
def x():
    return torch.randn(2, 42, 16)


@pytest.mark.parametrize('target', ['attention', 'block'])
def test_loss_is_the_mean_over_layers_of_the_relative_error(x, target):
    student = Encoder()
    teacher = Encoder(FullAttention)
    teacher.load_state_dict(student.state_dict())
    noted = {student: [], teacher: []}
    for model, outputs in noted.items():
        for block in model.blocks:
            module = block.attn if target == 'attention' else block
            module.register_forward_hook(lambda _, __, output, to=outputs: to.append(output))
    distillation = Distillation(student, make_teacher(student), target)
    student(x)
    teacher(x)
    found = distillation.loss()
    expected = [
        ((a - b).square().sum(-1) / b.square().sum(-1)).mean()
        for a, b in zip(noted[student], noted[teacher], strict=False)
    ]
    torch.testing.assert_close(found, sum(expected) / 2, atol=0.0, rtol=0.1)
    found.backward()
    assert student.blocks[0].attn.qkv.weight.grad.any()


def test_a_student_in_the_stage_of_full_attention_has_no_loss(x):
    student = Encoder()
    distillation = Distillation(student, make_teacher(student))
    for block in student.blocks:
        block.attn.set_stage(FULL)
    student(x)
    assert distillation.loss() == 0


def test_the_teacher_is_frozen_in_the_weights_before_training(x):
    student = Encoder().train()
    distillation = Distillation(student, make_teacher(student), 'block')
    before = [p.clone() for p in distillation.teacher.parameters()]
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    losses = []
    for _ in range(20):
        student(x)
        loss = distillation.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert not distillation.teacher.training
    for parameter, value in zip(distillation.teacher.parameters(), before, strict=True):
        assert not parameter.requires_grad and torch.equal(parameter, value)


def test_with_recomputed_blocks_the_gradients_are_the_same(x):
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        student = Encoder(with_cp=with_cp)
        distillation = Distillation(student, make_teacher(student))
        for _ in range(2):
            student(x)
            distillation.loss().backward()
        gradients.append([p.grad for p in student.parameters() if p.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_swapped_models_are_watched_at_their_projections(x):
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
    model = swap_attention(
        nn.TransformerEncoder(layer, 2), {'landmarks': (2, 2), 'topk': 3}, grid=GRID
    )
    assert target_modules(model, 'attention') == ['layers.0.self_attn', 'layers.1.self_attn']
    assert target_modules(model, 'block') == ['layers.0', 'layers.1']
    distillation = Distillation(model, make_teacher(model))
    model(x)
    loss = distillation.loss()
    assert loss > 0
    loss.backward()
    assert model.layers[0].self_attn.in_proj_weight.grad.any()


def test_closed_nothing_is_left(x):
    student = Encoder()
    distillation = Distillation(student, make_teacher(student))
    teacher = weakref.ref(distillation.teacher)
    student(x)
    distillation.close()
    gc.collect()
    assert teacher() is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())


def test_no_loss_without_a_forward_pass_with_gradients(x):
    student = Encoder()
    distillation = Distillation(student, make_teacher(student))
    with torch.no_grad():
        student(x)
    with pytest.raises(RuntimeError, match='no forward pass of the student with gradients'):
        distillation.loss()
    student(x)
    distillation.loss()
    with pytest.raises(RuntimeError, match='once before each loss'):
        distillation.loss()


def test_no_token_outweighs_the_others():
    target = torch.randn(1, 100, 8)
    target[:, 0] *= 1000
    output = target.clone()
    output[:, 50:] *= 1.5
    # Half of the tokens are off by a quarter of their squared norm.
    error = relative_error(output[:, 1:], target[:, 1:])
    assert 0.1 < error < 0.13
    output[:, 0] *= 2
    assert relative_error(output, target) < error + 0.02


@pytest.mark.parametrize(
    ('student', 'target', 'message'),
    [
        (Encoder(), 'logits', "target must be 'attention' or 'block', got 'logits'"),
        (MiTAAttention(16, 2), 'block', 'is in none'),
    ],
)
def test_what_cannot_be_compared_is_refused(student, target, message):
    with pytest.raises(ValueError, match=message):
        Distillation(student, student, target)


def test_a_model_without_mita_attention_has_no_teacher():
    with pytest.raises(ValueError, match='no MiTAAttention'):
        make_teacher(Encoder(FullAttention))
