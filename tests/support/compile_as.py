"""A pytest plugin: all kernels compiled as for another architecture, on the GPU that is there.

python -m pytest -p support.compile_as --compile-as 80 tests/ops/triton, with tests/ on PYTHONPATH.
"""


def pytest_addoption(parser):
    parser.addoption(
        '--compile-as', type=int, metavar='N', help='compute capability, such as 80 for an A100'
    )


def pytest_configure(config):
    from mita_seg.kernel_check.emulation import compile_as

    if config.getoption('--compile-as'):
        compile_as(config.getoption('--compile-as'))
