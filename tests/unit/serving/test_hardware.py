"""Cores by affinity and cgroup quota, and the choice of a device."""

import os
from pathlib import Path

import pytest

from serving.hardware import choose_device, usable_cores

CORES = len(os.sched_getaffinity(0))


def test_without_a_quota_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == CORES
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) == CORES


@pytest.mark.parametrize(("quota", "cores"), [("50000", 1), ("100000", 1), ("9900000", CORES)])
def test_a_v2_quota_limits(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", CORES), ("100000", 1)])
def test_a_v1_quota_limits(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == cores


def test_auto_takes_the_gpu_when_there_is_one() -> None:
    assert choose_device("auto", has_gpu=True, library="torch") == "cuda"
    assert choose_device("auto", has_gpu=False, library="torch") == "cpu"
    assert choose_device("cpu", has_gpu=True, library="torch") == "cpu"


def test_a_gpu_that_is_not_there_stops_the_start() -> None:
    with pytest.raises(ValueError, match="no GPU that torch can use; set DEVICE=cpu"):
        choose_device("cuda", has_gpu=False, library="torch")
