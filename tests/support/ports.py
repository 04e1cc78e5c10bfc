"""Ports for processes that meet on this machine."""

import socket


def free_port():
    """A TCP port that nobody listens on, as text."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])
