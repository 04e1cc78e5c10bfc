"""Compile all kernels for several architectures, in several processes."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from mita_seg.ops.triton.gpu import ARCHITECTURES

from .cases import Case, ClusterCase, LossCase
from .compilation import Resources, compile_launch
from .launches import Launch, list_launches


@dataclass
class Finding:
    """What one kernel takes on one architecture, the most of its cases."""

    shared: int = 0  # bytes of shared memory per program
    registers: int = 0  # per thread
    spills: int = 0  # registers per thread that are kept in memory
    cases: int = 0

    def add(self, resources: Resources) -> None:
        """Count one more case."""
        self.shared = max(self.shared, resources.shared)
        self.registers = max(self.registers, resources.registers)
        self.spills = max(self.spills, resources.spills)
        self.cases += 1


@dataclass
class Check:
    """What :func:`check_kernels` found.

    Attributes:
        cases: How many were compiled.
        findings: By architecture and kernel.
        failures: What does not compile or fit, a sentence each.
        spills: Where registers spill although the case must not, a sentence each.
    """

    cases: int
    findings: dict[int, dict[str, Finding]]
    failures: list[str] = field(default_factory=list)
    spills: list[str] = field(default_factory=list)

    def as_json(self) -> dict:
        """The contents of ``--json FILE``."""
        return {
            'cases': self.cases,
            'architectures': {
                str(architecture): {
                    'limit': ARCHITECTURES[architecture].shared_memory,
                    'kernels': {name: vars(finding) for name, finding in sorted(kernels.items())},
                }
                for architecture, kernels in self.findings.items()
            },
        }


@dataclass
class _Job:
    """A launch that several cases compile alike."""

    architecture: int
    launch: Launch
    cases: list[Case | LossCase | ClusterCase]


_jobs: list[_Job] = []  # of the processes, which are forked


def check_kernels(
    architectures: Sequence[int],
    cases: Sequence[Case | LossCase | ClusterCase],
    *,
    first_of_each: bool = False,
    processes: int | None = None,
    progress: Callable[[int, int], None] = lambda done, jobs: None,
) -> Check:
    """Compile the kernels of some cases and compare what they take with what GPUs have.

    Args:
        architectures: Such as 80, of :data:`mita_seg.ops.triton.gpu.ARCHITECTURES`.
        cases: What is called.
        first_of_each: Whether the first launch of each kernel is enough.
        processes: That compile at a time; by default one a processor.
        progress: Called with the numbers of compilations that are done, and in all.
    """
    check = Check(len(cases), {architecture: {} for architecture in architectures})
    torch.set_num_threads(1)
    _jobs[:] = _list_jobs(architectures, cases, first_of_each)
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get('TRITON_CACHE_DIR')
        os.environ['TRITON_CACHE_DIR'] = folder  # thousands of files, of no use to others
        try:
            with multiprocessing.get_context('fork').Pool(processes) as pool:
                results = pool.imap_unordered(_compile, range(len(_jobs)))
                for done, (index, outcome) in enumerate(results, 1):
                    _note(check, _jobs[index], outcome)
                    progress(done, len(_jobs))
        finally:
            os.environ.pop('TRITON_CACHE_DIR')
            if before is not None:
                os.environ['TRITON_CACHE_DIR'] = before
    return check


def _list_jobs(architectures, cases, first_of_each) -> list[_Job]:
    jobs = {}
    for architecture in architectures:
        seen = set()
        for case in cases:
            of_case = set()
            for launch in list_launches(case, ARCHITECTURES[architecture]):
                key = architecture, launch.key()
                if key in of_case or (first_of_each and launch.name in seen):
                    continue
                of_case.add(key)
                seen.add(launch.name)
                jobs.setdefault(key, _Job(architecture, launch, [])).cases.append(case)
    # float32 and many landmarks take the longest.
    return sorted(jobs.values(), key=lambda job: -job.cases[0].dtype.itemsize)


def _compile(index: int) -> tuple[int, Resources | str]:
    job = _jobs[index]
    try:
        return index, compile_launch(job.launch, job.architecture)
    except Exception as error:  # of the compiler or the assembler, of any kind
        lines = str(error).strip().splitlines() or ['']
        return index, f'{type(error).__name__}: {lines[-1].strip()}'  # the cause comes last


def _note(check: Check, job: _Job, outcome: Resources | str) -> None:
    where = f'sm_{job.architecture} {job.launch.name}, {job.cases[0]}'
    if isinstance(outcome, str):
        check.failures.append(f'{where}: does not compile: {outcome}')
        return
    limit = ARCHITECTURES[job.architecture].shared_memory
    if outcome.shared > limit:
        check.failures.append(
            f'{where}: takes {outcome.shared} bytes of shared memory, the GPU has {limit}'
        )
    finding = check.findings[job.architecture].setdefault(job.launch.name, Finding())
    for case in job.cases:
        finding.add(outcome)
        if outcome.spills and case.must_not_spill:
            check.spills.append(
                f'sm_{job.architecture} {job.launch.name}, {case}: {outcome.spills} registers'
            )
