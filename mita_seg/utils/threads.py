"""How many threads a process computes with, so that several on one machine do not stop each other.

Threads that wait for each other turn round and round meanwhile: with more of them than cores,
everybody waits for those that have no core.
"""

import os

# What is left to the CPU beside a GPU is to start kernels and to stack images.
_BESIDE_GPU = 2
# For the help of a tool.
THREADS = (
    f'Beside a GPU it computes with {_BESIDE_GPU} threads of the CPU, so that several can run at '
    'once; without a GPU it takes all cores. OMP_NUM_THREADS=N says otherwise.'
)


def threads_asked_for():
    """The number in ``OMP_NUM_THREADS``, or None.

    It goes before any other choice: a container may offer fewer cores than it shows.
    """
    asked = os.environ.get('OMP_NUM_THREADS', '')
    return int(asked) if asked.isdigit() and int(asked) else None


def usable_cores():
    """Cores that this process may run on, as far as the system tells."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_per_job(jobs):
    """Threads for each of several processes, so that all of them together use every core once.

    Args:
        jobs (int): Number of processes.

    Returns:
        int: At least 1; what ``OMP_NUM_THREADS`` says, if it is set.
    """
    return threads_asked_for() or max(1, usable_cores() // jobs)


def thread_variables(threads):
    """The environment variables that give a process this number of threads.

    Args:
        threads (int): Number of threads.

    Returns:
        dict[str, str]: For OpenMP and MKL, which torch and NumPy compute with.
    """
    return {'OMP_NUM_THREADS': str(threads), 'MKL_NUM_THREADS': str(threads)}


def limit_threads_beside_gpu():
    """Compute with few threads if there is a GPU; without one, torch keeps all cores.

    To be called before the process computes anything, since then its threads start. Processes that
    it starts inherit the choice. ``OMP_NUM_THREADS`` goes before it.
    """
    if threads_asked_for():
        return
    import torch

    if torch.cuda.is_available():
        threads = min(_BESIDE_GPU, usable_cores())
        os.environ.update(thread_variables(threads))
        torch.set_num_threads(threads)
