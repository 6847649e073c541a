"""(f) A ZIP of 300 slices of 512 x 512 pixels to CT-CLIP's volume: ours against the original's way, SimpleITK and dcm2niix.

Each way runs in a process of its own, in turn. Memory is what that and its children share and hold (PSS), sampled in a run of its
own: sampling holds up whoever is sampled. Starting up (imports, worker processes) counts for none.
"""

import argparse
import asyncio
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom

from tests import ct_reference, ct_series
from tests.bench.memory import Peak
from tests.bench.report import Section
from transformers_pre.dicom.limits import StudyLimits
from transformers_pre.dicom.reader import StudyReader

COUNT, SIZE, SPACING, STEP = 300, 512, 0.683, 0.955
NOISE_HU = 25.0
ROUNDS = 3
WORKERS = 2
DCM2NIIX = Path(sys.executable).with_name("dcm2niix")
Volume = npt.NDArray[Any]


def make(path: Path) -> None:
    """The ZIP: a smooth body with a scanner's noise, in shuffled order."""
    rng = np.random.default_rng(0)
    images = ct_series.scan(
        count=COUNT,
        rows=SIZE,
        columns=SIZE,
        spacing=(SPACING, SPACING),
        step=STEP,
        what=lambda *points: (
            ct_series.body(*points) + rng.normal(0, NOISE_HU, np.broadcast_shapes(*(p.shape for p in points)))
        ),
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, place in enumerate(rng.permutation(COUNT)):
            archive.writestr(f"IM{number:04d}", ct_series.dicom(images[place]))


def _ours(path: Path) -> tuple[float, Volume]:
    async def read() -> tuple[float, Volume]:
        async with StudyReader(StudyLimits(workers=WORKERS)) as reader:
            with path.open("rb") as file:
                begun = time.perf_counter()
                study = await reader.read(file)
                return time.perf_counter() - begun, study.volume

    return asyncio.run(read())


def _original(path: Path) -> tuple[float, Volume]:
    """pydicom, sorted by position, float64 and torch: CT-CLIP's own inference without the NIfTI in between."""
    import torch  # only this way's process

    torch.set_num_threads(WORKERS)
    begun = time.perf_counter()
    with zipfile.ZipFile(path) as archive:
        images = [pydicom.dcmread(io.BytesIO(archive.read(name))) for name in archive.namelist()]
    images.sort(key=lambda image: float(image.ImagePositionPatient[2]))
    hu = np.stack([image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept) for image in images])
    volume = ct_reference.volume(hu, (STEP, SPACING, SPACING)).astype(np.float32)
    return time.perf_counter() - begun, volume


def _simpleitk(path: Path) -> tuple[float, Volume]:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(WORKERS)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)  # our own
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(folder)
        image = sitk.ReadImage(names, sitk.sitkFloat32)
    volume = _resampled(sitk, image)
    return time.perf_counter() - begun, volume


def _pydicom_simpleitk(path: Path) -> tuple[float, Volume]:
    """Read as we would without a library for it: from the archive, in threads, into one array."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(WORKERS)

    def read(name: str) -> pydicom.Dataset:
        with zipfile.ZipFile(path) as archive:
            return pydicom.dcmread(io.BytesIO(archive.read(name)))

    begun = time.perf_counter()
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    with ThreadPoolExecutor(WORKERS) as threads:
        images = list(threads.map(read, names))
    images.sort(key=lambda image: float(image.ImagePositionPatient[2]))
    stack = np.empty((len(images), SIZE, SIZE), np.float32)
    for image, plane in zip(images, stack, strict=True):
        np.multiply(image.pixel_array, np.float32(image.RescaleSlope), out=plane)
        np.add(plane, np.float32(image.RescaleIntercept), out=plane)
    image = sitk.GetImageFromArray(stack)
    image.SetSpacing((SPACING, SPACING, STEP))
    volume = _resampled(sitk, image)
    return time.perf_counter() - begun, volume


def _dcm2niix(path: Path) -> tuple[float, Volume]:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(WORKERS)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(f"{folder}/in")
        subprocess.run([DCM2NIIX, "-z", "n", "-b", "n", "-o", folder, f"{folder}/in"], check=True, capture_output=True)
        (made,) = Path(folder).glob("*.nii")
        image = sitk.ReadImage(str(made), sitk.sitkFloat32)
    # Its rows are turned over; ITK says so in the direction, and the network would not know.
    volume = _resampled(sitk, sitk.Flip(image, [False, image.GetDirection()[4] < 0, False]))
    return time.perf_counter() - begun, volume


def _resampled(sitk: Any, image: Any) -> Volume:
    """Clipped, then resampled linearly, straight to the window that the volume is, columns before rows."""
    spacing = image.GetSpacing()
    image = sitk.Clamp(image, sitk.sitkFloat32, -1000, 1000)
    image.SetSpacing((1, 1, 1))
    image.SetOrigin((0, 0, 0))
    image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, 1))
    steps, origin = [], []
    for count, have, want, target in zip(image.GetSize(), spacing, (0.75, 0.75, 1.5), (480, 480, 240), strict=True):
        resampled = int(count * (round(have, 5) / want))
        step = count / resampled
        begin = (resampled - target) // 2 if resampled > target else -((target - resampled) // 2)
        steps.append(step)
        origin.append((begin + 0.5) * step - 0.5)
    steps[:2] = steps[1::-1]
    turned = (0, 1, 0, 1, 0, 0, 0, 0, 1)
    made = sitk.Resample(image, (480, 480, 240), sitk.Transform(), sitk.sitkLinear, origin, steps, turned, -1000.0)
    volume: Volume = sitk.GetArrayFromImage(made)
    volume /= np.float32(1000)
    return volume


WAYS: dict[str, Callable[[Path], tuple[float, Volume]]] = {
    "ours": _ours,
    "the original's, float64": _original,
    "SimpleITK": _simpleitk,
    "pydicom and SimpleITK": _pydicom_simpleitk,
    **({"dcm2niix and SimpleITK": _dcm2niix} if DCM2NIIX.exists() else {}),
}


def seconds(way: str, path: Path, out: Path) -> float:
    """What one way takes, in a process of its own; its volume goes to `out`."""
    said = subprocess.run(_command(way, path, out), stdout=subprocess.PIPE, text=True, check=True).stdout
    return float(json.loads(said)["seconds"])


def peak_mb(way: str, path: Path, out: Path) -> float:
    """The most memory that one way takes, in a process of its own."""
    with subprocess.Popen(_command(way, path, out), stdout=subprocess.DEVNULL) as process, Peak(process.pid) as peak:
        process.wait()
    if process.returncode:
        raise RuntimeError(f"the way {way} failed")
    return peak.mb


def _command(way: str, path: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "tests.bench.ct_volume", way, str(path), str(out)]


def run() -> Section:
    """The section for the report."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "series.zip"
        make(path)
        outs = {way: Path(folder) / f"{number}.npy" for number, way in enumerate(WAYS)}
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way, out in outs.items():
                times[way].append(seconds(way, path, out))
        peaks = {way: peak_mb(way, path, out) for way, out in outs.items()}
        original = np.load(outs["the original's, float64"], mmap_mode="r")
        differences = {way: float(np.abs(np.load(out) - original).max()) for way, out in outs.items()}
    section = Section(
        "A CT series to its volume",
        f"A ZIP of {COUNT} slices of {SIZE} x {SIZE} pixels to 240 x 480 x 480 float32, two cores each; median of {ROUNDS}, with "
        "the peak of memory (PSS) and the largest difference to the original's way (1 = 1000 HU).",
    )
    medians = {way: statistics.median(found) for way, found in times.items()}
    for way, median in medians.items():
        section.row(way, f"{median:.2f} s, {peaks[way]:.0f} MB, {differences[way]:.1e}")
    best = min(median for way, median in medians.items() if way != "ours")
    section.row("ours to the best of the others (below 1: ours is faster)", f"{medians['ours'] / best:.2f}")
    return section


def main() -> None:
    """Entry point of one way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("path", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    taken, volume = WAYS[options.way](options.path)
    print(json.dumps({"seconds": taken}))
    np.save(options.out, volume)


if __name__ == "__main__":
    main()
