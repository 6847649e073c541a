"""The images' tests need the images; without a container tool, or without one of them, they fail and say so."""

import pytest

from tests.images import containers


@pytest.fixture(scope="session", autouse=True)
def _images() -> None:
    assert containers.IMAGES, "no image is named: run `make test-images`"
    containers.tool("version")
    missing = []
    for image in containers.IMAGES:
        try:
            containers.inspect(image)
        except containers.ContainerError:
            missing.append(image)
    assert not missing, f"not built: run `make images IMAGES='{' '.join(missing)}'`"
