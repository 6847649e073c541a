"""What a container may run on: its CPU cores, which are usually fewer than the machine's, and its device."""

import math
import os
from pathlib import Path


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores of the affinity mask, no more than the cgroup's CPU quota (v2 `cpu.max`, v1 `cpu.cfs_*`) rounded up."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota(cgroup)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    v2, v1 = cgroup / "cpu.max", cgroup / "cpu"
    if v2.is_file():
        limit, period = v2.read_text().split()
    elif (v1 / "cpu.cfs_quota_us").is_file():
        limit, period = ((v1 / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    else:
        return None
    return None if limit in ("max", "-1") else int(limit) / int(period)


def choose_device(wanted: str, has_gpu: bool, library: str) -> str:
    """Gives cpu or cuda for DEVICE auto, cpu or cuda. Raises ValueError when there is no GPU and DEVICE wants one."""
    if wanted == "cuda" and not has_gpu:
        raise ValueError(f"DEVICE=cuda: there is no GPU that {library} can use; set DEVICE=cpu or give the pod a GPU")
    return ("cuda" if has_gpu else "cpu") if wanted == "auto" else wanted
