"""The systemd unit of `examples/`: its command is one that `serving.local` takes, and it leaves the pods time to drain."""

import configparser
import shlex
from pathlib import Path

import pytest

from serving.local import STOPPING_SECONDS, arguments, services

UNIT = Path(__file__).parents[3] / "examples/sonotome-streaming.service"


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names of systemd have capitals
    parser.read_string(UNIT.read_text())
    return parser["Service"]


def test_its_command_is_known(service: configparser.SectionProxy) -> None:
    python, *words = shlex.split(service["ExecStart"])
    assert (Path(python).name, words[:2]) == ("python", ["-m", "serving.local"])
    options = arguments(services()).parse_args(words[2:])
    assert options.name in services()
    assert (options.host, options.port) == ("0.0.0.0", 49153)


def test_both_pods_may_drain_one_after_the_other(service: configparser.SectionProxy) -> None:
    assert service["KillMode"] == "mixed"
    assert float(service["TimeoutStopSec"]) > 2 * STOPPING_SECONDS
