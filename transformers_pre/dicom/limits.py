"""What reading a study may take. A refusal names the setting that holds the value."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StudyLimits:
    """Limits of one pod; the defaults are those of the settings."""

    workers: int = 2
    """Processes that decode; all of them work on one study, the next one waits."""
    volumes: int = 2
    """Most volumes that are held: the one that is made, and those that are with the predictor (STUDY_VOLUMES)."""
    queue: int = 8
    """Most studies that wait, their uploads on disk (STUDY_QUEUE)."""
    memory_bytes: int = 512 << 20
    """Memory that one worker may take on top of an idle one's, the shared volume (221 MB) not counted (DECODE_MEMORY_BYTES)."""
    timeout_seconds: float = 120.0
    """Time for one study, its wait for workers not counted (DECODE_TIMEOUT_SECONDS)."""
    max_files: int = 10_000
    """Most files of an upload, frames of multi-frame files included (MAX_FILES)."""
    max_inflated_bytes: int = 4 << 30
    """Most bytes of an upload's files, decompressed (MAX_INFLATED_BYTES)."""
    max_file_bytes: int = 1 << 30
    """Largest file of an upload, decompressed (MAX_FILE_BYTES)."""
    max_ratio: int = 100
    """Decompressed bytes to compressed ones, over a whole archive: what is above is a bomb, no images (MAX_COMPRESSION_RATIO)."""
    max_matrix: int = 2048
    """Most rows and columns of an image (MAX_MATRIX)."""
    max_decoded_bytes: int = 4 << 30
    """Most bytes of the images of one series, decoded (MAX_DECODED_BYTES)."""
    max_extent_mm: float = 2500.0
    """Longest side of the box that the images fill, mm (MAX_EXTENT_MM)."""
    max_header_bytes: int = 32 << 20
    """Longest data set before the pixel data (MAX_HEADER_BYTES)."""
    max_whole_bytes: int = 64 << 20
    """Largest file, or deflated data set, that cannot be read frame by frame (MAX_WHOLE_BYTES)."""
    max_oblique_degrees: float = 30.0
    """How far images may be turned against the body's axes (MAX_OBLIQUE_DEGREES)."""
    max_tilt_degrees: float = 35.0
    """How far a gantry may be tilted (MAX_TILT_DEGREES)."""
    max_missing_share: float = 0.1
    """Slices that may be missing, of those that are there; each between two of them (MAX_MISSING_SHARE)."""
    min_slices: int = 20
    """Fewest slices of a volume (MIN_SLICES)."""
    other_body_parts: bool = False
    """Whether images are read that say that they show the head, an arm or a leg (ALLOW_OTHER_BODY_PARTS)."""
