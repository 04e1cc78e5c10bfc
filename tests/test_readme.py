"""The documents: examples run, tools take the commands, and what is named exists."""

import os
import re
import runpy
import shlex
from pathlib import Path

import pytest

from support import conversion_cases

pytest.importorskip('mmseg')

import mmseg
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.apis import init_model
from mmseg.registry import MODELS

from mita_seg.comparison.measure import make_training_iteration
from support.user_config import write_user_config

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    path
    for pattern in ('*.md', 'docs/*.md', 'configs/*/README.md', 'experiments/*/README.md')
    for path in ROOT.glob(pattern)
    if path.name != 'CHANGELOG.md'
)
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in DOCUMENTS}
TEXT = '\n'.join(TEXTS.values())
PYTHON = re.findall(r'```python\n(.*?)```', TEXT, re.DOTALL)
SEGMENTORS = [code for code in PYTHON if 'scores = segmentor(' in code]


@pytest.mark.parametrize('code', SEGMENTORS, ids=['head', 'attention'])
def test_example_runs_forward_and_backward(code):
    names = {}
    exec(compile(code, 'document', 'exec'), names)
    scores = names['scores']
    promised = re.search(r'scores = .*# \[([\d, ]+)\]', code).group(1)
    assert list(scores.shape) == [int(n) for n in promised.split(',')]
    scores.sum().backward()
    assert all(p.grad is not None for p in names['segmentor'].parameters() if p.requires_grad)


def recipe(word, tmp_path, **replaced):
    """The config that holds a word, read with its files."""
    (code,) = (code for code in PYTHON if word in code and '_base_' in code)
    for old, new in replaced.values():
        assert old in code
        code = code.replace(old, str(new))
    path = tmp_path / 'recipe.py'
    path.write_text(code.replace("'configs/", f"'{ROOT}/configs/"))
    return Config.fromfile(path)


def test_recipe_that_fine_tunes_a_vit_of_timm(tmp_path, monkeypatch):
    for name, size in {'WIDTH': 192, 'LAYERS': 12, 'PATCH': 16, 'GRID': 24}.items():
        monkeypatch.setattr(conversion_cases, name, size)
    weights = conversion_cases.timm_vit()
    torch.save(weights, tmp_path / 'vit.pth')
    cfg = recipe('vit.pth', tmp_path, file=('vit.pth', tmp_path / 'vit.pth'))
    cfg.model.data_preprocessor.size = (128, 128)  # smaller, for the time it takes
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    model.init_weights()
    query = model.backbone.layers[3].attn.qkv.weight
    assert torch.equal(query, weights['blocks.3.attn.qkv.weight'])
    losses = make_training_iteration(cfg, model, 2, 128, 128)()
    assert losses['loss'].isfinite()
    assert not torch.equal(query, weights['blocks.3.attn.qkv.weight'])
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 3, 128, 128), mode='tensor').isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize('tools', ['ours', pytest.param('mmseg', marks=pytest.mark.long)])
def test_recipe_that_puts_mita_into_a_config(tools, programs, shapes_root, tmp_path, monkeypatch):
    """Trained, tested and loaded into the model as it was, by our tools and by MMSegmentation's."""
    monkeypatch.syspath_prepend(tmp_path)  # my_project
    base = write_user_config(tmp_path, shapes_root)
    recipe('build_swapped', tmp_path)
    folder = ROOT / 'tools' if tools == 'ours' else Path(mmseg.__file__).parent / '.mim/tools'
    path = os.pathsep.join((str(tmp_path), os.environ['PYTHONPATH']))

    def run(tool, *arguments):
        command = [folder / f'{tool}.py', tmp_path / 'recipe.py', *arguments]
        command += ['--work-dir', tmp_path / 'run']
        status, printed = programs.run(*command, variables={**os.environ, 'PYTHONPATH': path})
        assert status == 0, printed
        return printed

    assert 'MyHook was here' in run('train')
    checkpoint = tmp_path / 'run/iter_2.pth'
    assert 'mIoU' in run('test', checkpoint)
    swapped = init_model(str(tmp_path / 'recipe.py'), str(checkpoint), device='cpu')
    assert sum(hasattr(module, 'mita') for module in swapped.modules()) == 3
    init_default_scope('mmseg')
    stock = MODELS.build(Config.fromfile(base).model)
    stock.load_state_dict(swapped.state_dict(), strict=True)


def test_recipe_that_puts_mita_into_a_config_of_this_repository(tmp_path):
    base = next((ROOT / 'configs/mita_segmenter').glob('*_vit-t_full_*.py'))
    cfg = recipe('build_swapped', tmp_path, base=('your_config.py', base))
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    assert sum(hasattr(module, 'mita') for module in model.modules()) == 14


def test_attention_of_ones_own(tmp_path, monkeypatch):
    (code,) = (code for code in PYTHON if 'class LinearAttention' in code)
    (tmp_path / 'linear_attention.py').write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    # Other tests do not know of it.
    monkeypatch.setattr(MODELS, '_module_dict', dict(MODELS.module_dict))
    cfg = recipe("'linear_attention'", tmp_path)
    cfg.model.data_preprocessor.size = (64, 64)
    cfg.model.backbone.init_cfg = None
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    assert sum(type(module).__name__ == 'LinearAttention' for module in model.modules()) == 14
    assert model(torch.randn(1, 3, 64, 64), mode='tensor').isfinite().all()


def test_recipe_of_the_operator():
    (code,) = (code for code in PYTHON if 'pooled_mita_attention' in code)
    names = {}
    exec(compile(code, 'document', 'exec'), names)
    assert names['output'].shape == names['query'].shape


def test_example_of_recorded_routing():
    (code,) = (code for code in PYTHON if 'with record_routing' in code)
    names = {}
    exec(compile(code, 'document', 'exec'), names)
    assert names['expert_map'](names['routing']).shape == (1, 2, 12, 16)


def test_example_of_the_aids_trains():
    (code,) = (code for code in PYTHON if 'Annealing(' in code)
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 2)
    images = torch.randn(1, 64, 16)
    names = {
        'model': model,
        'loader': [(images, images)] * 3,
        'criterion': torch.nn.MSELoss(),
        'optimizer': torch.optim.SGD(model.parameters(), 0.1),
    }
    for old, new in (('< 2000', '< 1'), ('== 2000', '== 1'), ('end=4000', 'end=2')):
        assert old in code
        code = code.replace(old, new)
    exec(compile(code, 'document', 'exec'), names)
    assert names['annealing'].finished and names['loss'].isfinite()


def test_example_of_a_swap_runs_and_is_undone():
    (code,) = (code for code in PYTHON if 'restore_attention' in code)
    names = {}
    exec(compile(code, 'document', 'exec'), names)
    assert names['tokens'].shape == (1, 192, 64)
    plain = names['nn'].MultiheadAttention
    assert all(type(layer.self_attn) is plain for layer in names['model'].layers)


@pytest.mark.parametrize('document', TEXTS)
def test_links_lead_to_files(document):
    """Anchors are checked by `make docs`."""
    folder = (ROOT / document).parent
    for link in re.findall(r'\]\(([^)]+)\)', TEXTS[document]):
        if '://' not in link:
            assert (folder / link.partition('#')[0]).exists(), link


def test_named_files_exist():
    pattern = r'(?<![\w/.-])(?:tools|configs|tests|examples|experiments|mita_seg|docs)/[\w./-]*\w'
    of_mmsegmentation = 'configs/segmenter'
    for name in set(re.findall(pattern, TEXT)) - {of_mmsegmentation}:
        assert (ROOT / name).exists() or re.search('NAME|FAMILY', name), name


def test_named_targets_of_make_exist():
    known = set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    named = re.findall(r'(?:^|`)make ((?:[a-z-]+ ?)+)(?=[`#\n A-Z])', TEXT, re.MULTILINE)
    assert {'demo', 'test', 'docs'} <= {word for names in named for word in names.split()} <= known


def commands():
    """The arguments of each command of a tool in a block of bash, without what is optional."""
    blocks = re.findall(r'```bash\n(.*?)```', TEXT, re.DOTALL)
    variables = dict(re.findall(r'^([A-Z]+)="?([^"\n]*)"?$', '\n'.join(blocks), re.MULTILINE))
    for line in '\n'.join(blocks).replace('\\\n', ' ').splitlines():
        line = re.sub(r'\$([A-Z]+)', lambda name: variables[name[1]], line)
        words = shlex.split(re.sub(r'\[.*?\](?= |$)', '', line), comments=True)
        if len(words) > 1 and words[0] == 'python' and words[1].startswith('tools/'):
            yield words[1], [word for word in words[2:] if word != '...']


@pytest.mark.parametrize('tool', sorted({tool for tool, _ in commands()}))
def test_tools_take_the_commands(tool, monkeypatch):
    """Those that run for long or need a GPU too; what they do is tested elsewhere."""
    monkeypatch.setenv('LOCAL_RANK', '0')  # the tools set it
    parse_args = runpy.run_path(str(ROOT / tool))['parse_args']
    for named, arguments in commands():
        if named == tool:
            parse_args(arguments)


def test_errors_of_the_faq_are_messages_of_ours():
    of_others = {
        'CUDA out of memory',
        'multiple config files',
        'MiTA is slower than full attention',
    }
    code = ''.join(
        path.read_text() for path in (*ROOT.glob('mita_seg/**/*.py'), ROOT / '.ci/check_machine.py')
    )
    code = re.sub(r'[\'"]\s*\n\s*\+?\s*f?[\'"]', '', code)  # strings in several parts
    headings = re.findall(r'^### (.*)$', TEXTS['docs/faq.md'], re.MULTILINE)
    for heading in set(headings) - of_others:
        assert heading in code, heading


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / 'mkdocs.yml').read_text()
    for page in ROOT.glob('docs/**/*.md'):
        assert f': {page.relative_to(ROOT).as_posix()}\n' in navigation, page


def test_forms_and_hooks_are_read_and_name_what_exists():
    paths = [
        *ROOT.glob('.github/**/*.yml'),
        ROOT / '.pre-commit-config.yaml',
        ROOT / 'CITATION.cff',
    ]
    assert len(paths) >= 5
    for path in paths:
        assert yaml.safe_load(path.read_text()), path
    report = (ROOT / '.github/ISSUE_TEMPLATE/kernel_report.yml').read_text()
    assert 'tools/check_kernels.py --here' in report
    hooks = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos'][0]['hooks']
    for hook in hooks:
        for word in hook['entry'].split():
            assert not word.startswith('tests/') or (ROOT / word).exists()
