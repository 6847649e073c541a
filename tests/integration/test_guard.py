"""Pods that tests start end with the test run, also when it is killed."""

import subprocess
import sys

import psutil

from tests.pods import STOPPING_SECONDS


def test_a_pod_does_not_outlive_a_test_run_that_is_killed() -> None:
    program = (
        "import signal\n"
        "from tests.pods import Pod\n"
        "print(Pod('serving.testing').until_open().process.pid, flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pod = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    try:
        pod.wait(STOPPING_SECONDS)
    finally:
        if pod.is_running():
            pod.kill()
