"""The volume that ct/1 carries: numbers alone, so that a worker process can read them without the rest of the kit."""

from typing import Final

SHAPE: Final = (240, 480, 480)
"""Voxels: z from feet to head, column (towards the left), row (towards the back)."""
SPACING_MM: Final = (1.5, 0.75, 0.75)
"""Of the voxels, along the same axes."""
