"""`python -m serving.guard PARENT COMMAND…`: becomes COMMAND, which is told to stop (SIGTERM) when its parent dies.

For processes that `serving.local` and tests start in sessions of their own: no terminal's signal reaches them, and a parent
that is killed cannot stop them. Linux only, as all pods are; there the end of the thread that started them counts as its death.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h; it holds across exec


def guarded(*command: str) -> list[str]:
    """The command line of a Python command, such as `-m serving.testing`, that is to end with this process."""
    return [sys.executable, "-m", "serving.guard", str(os.getpid()), sys.executable, *command]


def main() -> None:
    """Entry point. PARENT is the caller's process id."""
    parent, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it went before the line above
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606  # what it is called for


if __name__ == "__main__":
    main()
