"""The findings of a check, for people."""

from mita_seg.ops.triton.gpu import ARCHITECTURES
from mita_seg.utils.tables import format_table

from .check import Check

_HEAD = ('kernel', 'cases', 'shared KiB', 'registers', 'spilled')


def format_check(check: Check) -> str:
    """A table for each architecture, and what is wrong below."""
    parts = [_format_architecture(*item) for item in check.findings.items()]
    if check.spills:
        parts.append('Spills at half precision and d <= 64:\n' + '\n'.join(check.spills))
    if check.failures:
        parts.append('Failures:\n' + '\n'.join(check.failures))
    else:
        names = ', '.join(f'sm_{architecture}' for architecture in check.findings)
        parts.append(f'All kernels of {check.cases} cases compile and fit: {names}.')
    return '\n\n'.join(parts)


def _format_architecture(architecture, kernels) -> str:
    limit = ARCHITECTURES[architecture].shared_memory
    rows = [
        (
            name,
            str(finding.cases),
            f'{finding.shared / 1024:.1f}',
            str(finding.registers),
            str(finding.spills),
        )
        for name, finding in sorted(kernels.items())
    ]
    title = f'sm_{architecture}: {limit // 1024} KiB of shared memory per program'
    return f'{title}\n\n{format_table([_HEAD, *rows])}'
