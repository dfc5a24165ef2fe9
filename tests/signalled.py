"""Processes that tests end by signals."""

import signal


def heeds_ctrl_c():
    """For `Popen(preexec_fn=...)`: where the tests run in a shell's background, SIGINT is ignored
    in all that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
