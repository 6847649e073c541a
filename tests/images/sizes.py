"""What an image weighs and why: `make image-sizes` prints a line an image for the README.

Sizes are unpacked, in MB (10^6 bytes). An installed package is its folder in site-packages, with what lies beside it under its
name (`NAME.libs`, `NAME-1.0.dist-info`).
"""

from functools import cache
from typing import Any

from tests.images import containers

LARGEST = 7


def mb(number: float) -> int:
    """Bytes as MB."""
    return round(number / 1e6)


def joined(packages: dict[str, int]) -> dict[str, int]:
    """Sizes by package: `NAME.libs`, `NAME-1.0.dist-info` and `NAME.cpython-311….so` belong to NAME."""
    sums: dict[str, int] = {}
    for part, size in packages.items():
        name = part.split("-")[0].split(".")[0].removeprefix("_").lower()
        sums[name] = sums.get(name, 0) + size
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


@cache
def measured(image: str) -> dict[str, Any]:
    """See `tests.images.inside.sizes`."""
    return containers.inside(image, "sizes")


def row(image: str) -> str:
    """The image's line of the table."""
    sizes = measured(image)
    packages = joined(sizes["packages"])
    base = sizes["total"] - sizes["rest"] - sum(packages.values())
    parts = {"base": base, **dict(list(packages.items())[:LARGEST])}
    return (
        f"| `{image}` | {mb(sizes['total'])} MB | {', '.join(f'{name} {mb(size)}' for name, size in parts.items())} |"
    )


if __name__ == "__main__":
    print("| image | unpacked | of it, MB |\n|---|---|---|")
    for each in containers.IMAGES:
        print(row(each))
