"""Table and pictures of a comparison say what the results of the runs say."""

import numpy as np
import pytest

pytest.importorskip('mmseg')

from benchmarks import plot
from mita_seg.comparison import pictures
from mita_seg.comparison import results as report
from mita_seg.comparison.pictures import make_styles
from mita_seg.comparison.results import describe_findings, short_names
from mita_seg.utils.attention_colours import FULL_COLOUR, MITA_COLOUR

ENVIRONMENT = {'device': 'd', 'torch': 't', 'timing': 'x', 'peak_mem_mb': 'y'}
COUNTS = dict.fromkeys(('aAcc', 'mAcc', 'flops_model', 'flops_decoder', 'latency_ms'), 1)


def result(kind, seed, **figures):
    return {
        **COUNTS,
        'config': f'net_{kind}_data',
        'seed': seed,
        'mIoU': 40.0 + seed,
        'params': 6_270_000,
        'iter_ms': 20.0,
        'peak_mem_mb': 3000.0,
        'checkpoint': 'x.pth',
        'environment': ENVIRONMENT,
        **figures,
    }


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, by name of the file."""
    drawn = {}
    monkeypatch.setattr(
        pictures, 'save_figure', lambda figure, path: drawn.update({path.name: figure})
    )
    return drawn


def titles(figure):
    return [axis.get_title() or axis.get_xlabel() for axis in figure.axes]


def test_table_holds_means_and_spreads_over_seeds(tmp_path):
    results = [result(kind, seed, iter_ms=None) for kind in ('full', 'mita') for seed in (0, 1, 2)]
    table = report.write_report(tmp_path, results, 'compare.py')
    assert table.count('41.00 ± 1.00') == 2
    assert table.count(' 6.270 ') == 2
    assert table.count(' - ') == 2


def test_tables_fit_a_terminal_and_the_file_names_the_configs(tmp_path):
    configs = [f'mita-segmenter_vit-t-p16_{kind}_1xb16-4k_data' for kind in ('full', 'mita-encdec')]
    results = [
        result('', seed, config=config, iter_ms=2000.0 + 10 * seed, latency_ms=500.0 + seed)
        for config in configs
        for seed in (0, 1)
    ]
    tables = report.write_report(tmp_path, results, 'compare.py', 'So it is.')
    assert max(map(len, tables.splitlines())) <= 100
    written = (tmp_path / 'results.md').read_text()
    assert all(config in written for config in configs) and 'So it is.' in written


def findings(full, mita, seeds=(0,), **more):
    return describe_findings(
        [result('full', seed, **full) for seed in seeds]
        + [result('mita-encdec', seed, **mita) for seed in seeds]
        + [result(kind, 0, **figures) for kind, figures in more.items()]
    )


def test_findings_say_what_was_measured():
    said = findings({'iter_ms': 20.0}, {'iter_ms': 15.0, 'flops_model': 0.4, 'mIoU': 38.0})
    assert said.startswith('mita-encdec has an mIoU of 38.0 and full of 40.0; against full, ')
    assert (
        'takes 60 % less computation, 25 % less training time and about as much latency and '
        in said
    )
    assert 'With one seed a difference in mIoU may be chance' in said and 'more tokens' not in said
    assert said.count('. ') == 1

    said = findings({}, {'iter_ms': 25.0, 'latency_ms': 3.0}, seeds=(0, 1))
    assert '25 % more training time and 3.0 times the latency.' in said
    assert 'The difference in mIoU is +0.0, its standard error 0.7: next, compare with more' in said


def test_findings_of_many_configs_name_the_best_of_each_kind():
    said = findings(
        {'mIoU': 50.0}, {'flops_model': 0.5}, other={'flops_model': 0.5, 'iter_ms': 1.0}
    )
    assert said.startswith('Highest mIoU: full; least training time: other; fewest FLOPs: ')
    assert 'fewest FLOPs: mita-encdec and other; least memory: full, mita-encdec and other.' in said
    assert describe_findings([result('full', 0)]) == ''


def test_report_keeps_the_commands_that_made_it(tmp_path):
    for command in ('compare.py a', 'compare.py b', 'compare.py a'):
        report.write_report(tmp_path, [result('full', 0)], command)
    written = (tmp_path / 'results.md').read_text()
    assert written.endswith('    compare.py a\n    compare.py b\n')


def test_names_leave_out_what_all_configs_share():
    assert short_names(['net_full_data', 'net_mita_data']) == ['full', 'mita']
    assert short_names(['net_full_data']) == ['net_full_data']


def test_fifty_configs_are_told_apart_by_colour_or_marker():
    names = [f'net_variant{number}_data' for number in range(50)]
    assert (
        len(set(make_styles(names))) == len(set(make_styles(['net_full_data', *names[1:]]))) == 50
    )


def test_a_colour_means_an_attention_whatever_else_is_drawn():
    few = make_styles(['net_mita-encdec_data', 'net_full_data'])
    many = make_styles(
        ['net_other_data', 'net_full-stock-recipe_data', 'net_mita-encdec_data', 'net_full_data']
    )
    assert [colour for colour, _ in few] == [MITA_COLOUR, FULL_COLOUR]
    assert [colour for colour, _ in many[1:]] == [FULL_COLOUR, MITA_COLOUR, FULL_COLOUR]
    assert many[0][0] not in (FULL_COLOUR, MITA_COLOUR) and many[1] != many[3]
    backends = {name: style[0] for name, style in plot._STYLES.items()}
    assert (backends['triton'], backends['flash']) == (MITA_COLOUR, FULL_COLOUR)


def test_tradeoff_draws_each_config_where_its_figures_are(figures, tmp_path):
    results = [result('full', seed) for seed in (0, 1, 2)]
    results += [result('mita', 0, iter_ms=300.0, peak_mem_mb=1000.0), result('other', 0)]
    pictures.draw_tradeoff(tmp_path, results)
    figure = figures['tradeoff.png']
    time, memory = figure.axes
    assert titles(figure) == ['Training iteration (ms)', 'Peak memory (MiB)']
    assert (time.get_xscale(), memory.get_xscale()) == ('log', 'linear')
    assert time.get_ylim()[0] == memory.get_xlim()[0] == 0
    drawn = {line.get_label(): line.get_xydata().tolist() for line in time.get_lines()}
    assert (drawn['full'], drawn['mita']) == ([[20.0, 41.0]], [[300.0, 40.0]])
    (bar,) = time.containers  # mita has one seed, hence no spread
    (segment,) = bar.lines[2][0].get_segments()
    np.testing.assert_allclose(segment[:, 1], [40.0, 42.0])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ['full', 'mita', 'other']


def test_two_configs_make_no_tradeoff(figures, tmp_path):
    assert pictures.draw_tradeoff(tmp_path, [result('full', 0), result('mita', 0)]) is None
    assert not figures


def test_costs_that_were_not_measured_are_left_out(figures, tmp_path):
    tested = [result(kind, 0, iter_ms=None) for kind in ('full', 'mita', 'other')]
    pictures.draw_tradeoff(tmp_path, tested)
    assert titles(figures['tradeoff.png']) == ['Peak memory (MiB)']
    pictures.draw_bars(tmp_path, tested)
    assert 'Training iteration (ms)' not in titles(figures['results.png'])

    pictures.draw_bars(tmp_path, [result('route', 0, iter_ms=7.0), *tested[:2]])
    bars = dict(zip(titles(figures['results.png']), figures['results.png'].axes, strict=True))
    assert [bar.get_width() for bar in bars['Training iteration (ms)'].patches] == [7.0]
    assert len(bars['mIoU (%)'].patches) == 3


def test_pictures_of_many_configs_fit_a_page(figures, tmp_path):
    results = [result(f'variant{number}', seed) for number in range(12) for seed in (0, 1)]
    for draw in (pictures.draw_bars, pictures.draw_tradeoff):
        draw(tmp_path, results)
    for figure in figures.values():
        assert max(figure.get_size_inches()) < 14
