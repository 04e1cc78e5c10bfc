"""What is said where ``torch.compile`` cannot do its work."""

from logging import WARNING

from mmengine.logging import print_log


def warn_not_compiled(what: str, error: Exception) -> None:
    """Log one line: what goes on without compilation, and why."""
    reason = ' '.join(f'{type(error).__name__}: {error}'.split())
    print_log(f'{what}: {reason}', 'current', WARNING)
