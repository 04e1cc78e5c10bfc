"""The README's examples run, and the files and links that it names exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / 'README.md').read_text()
PYTHON = re.findall(r'```python\n(.*?)```', README, re.DOTALL)


SEGMENTORS = [code for code in PYTHON if 'scores = ' in code]


@pytest.mark.parametrize('code', SEGMENTORS, ids=['head', 'attention'])
def test_example_runs_forward_and_backward(code):
    names = {}
    exec(compile(code, 'README.md', 'exec'), names)
    scores = names['scores']
    promised = re.search(r'scores = .*# \[([\d, ]+)\]', code).group(1)
    assert list(scores.shape) == [int(n) for n in promised.split(',')]
    scores.sum().backward()
    assert all(p.grad is not None for p in names['segmentor'].parameters() if p.requires_grad)


def test_example_of_a_swap_runs_and_is_undone():
    (code,) = (code for code in PYTHON if 'swap_attention' in code)
    names = {}
    exec(compile(code, 'README.md', 'exec'), names)
    assert names['tokens'].shape == (1, 192, 64)
    plain = names['nn'].MultiheadAttention
    assert all(type(layer.self_attn) is plain for layer in names['model'].layers)


@pytest.mark.parametrize(
    'document',
    ['README.md', 'configs/mita_segmenter/README.md', 'configs/mita_segmenter_camvid/README.md'],
)
def test_links_lead_to_files(document):
    path = ROOT / document
    for link in re.findall(r'\]\(([^)]+)\)', path.read_text()):
        if '://' not in link:
            assert (path.parent / link.partition('#')[0]).exists(), link


def test_named_tools_and_configs_exist():
    for name in set(re.findall(r'(?:tools|configs)/[\w./-]*\w', README)):
        assert (ROOT / name).exists(), name
