"""The chart's tests need Helm; without it they fail with the sentence that says what to install."""

import pytest

from charts.tools import helm


@pytest.fixture(scope="session", autouse=True)
def _helm() -> None:
    helm.find()
