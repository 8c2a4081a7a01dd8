# SPDX-License-Identifier: GPL-2.0-only
"""Connection of a task's terminal to the terminal of the user, who has started the task on this machine.

OE's oe_terminal starts a terminal program for a command. Here that program is this file: it runs the command on the
controlling terminal of the runner. The streams of the task are its log, as always.

usage as a program: terminal.py COMMAND [ARGUMENT...]
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from typing import Any

# Variable of the runner's environment with the type of the terminal (TERM). Without it there is no terminal.
TYPE_VARIABLE = "BITZEL_TERMINAL"


def attach(data: Any, terminal_type: str) -> None:
    """Makes oe_terminal use the user's terminal."""
    program = ["/usr/bin/env", f"TERM={terminal_type}", "/usr/bin/python3", os.path.abspath(__file__)]
    data.setVar("OE_TERMINAL", "custom")
    data.setVar("OE_TERMINAL_CUSTOMCMD", shlex.join(program) + " {command}")


def main(command: list[str]) -> None:
    terminal = os.open("/dev/tty", os.O_RDWR)
    # A process group that exists in this process namespace: a shell sets the one that it was started in at its end.
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(terminal, os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    for stream in range(3):
        os.dup2(terminal, stream)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
