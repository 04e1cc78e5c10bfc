"""The process whose forks run the tools for the tests."""

import os
import sys
import time

from support.forked_programs import ForkedPrograms


def test_ends_while_a_process_forked_since_holds_its_input():
    programs = ForkedPrograms(sys.executable, [], dict(os.environ))
    holder = os.fork()
    if not holder:
        time.sleep(60)
        os._exit(0)
    try:
        started = time.monotonic()
        programs.end()
        assert time.monotonic() - started < 30
    finally:
        os.kill(holder, 9)
        os.waitpid(holder, 0)
