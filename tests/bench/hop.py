"""(c) One chest-CT volume, 221 MB of float32, over the hop: ours against KServe's own gRPC hop, to one and the same pod."""

import asyncio
import statistics
import time

import numpy as np
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceGRPCClient

from serving import v2
from serving.deadline import Deadline
from serving.hop import PredictorClient
from tests.bench.memory import own_peak_mb
from tests.bench.report import Section
from tests.pods import Pod

SHAPE = (1, 1, 240, 480, 480)
ROUNDS = 5


async def _ours(client: PredictorClient, volume: np.ndarray) -> float:
    answer = await client.infer(v2.request("sum", {"VOLUME": volume}), {}, Deadline(120))
    return float(v2.tensors(answer)["SUM"][0])


async def _kserve(client: InferenceGRPCClient, volume: np.ndarray) -> float:
    tensor = InferInput("VOLUME", list(volume.shape), "FP32")
    tensor.set_data_from_numpy(volume, binary_data=True)
    answer = await client.infer(InferRequest("sum", [tensor]))
    return float(answer.outputs[0].as_numpy()[0])


async def _measure(pod: Pod) -> tuple[list[float], list[float]]:
    volume = np.random.default_rng(0).random(SHAPE, np.float32)
    expected = float(volume.sum(dtype=np.float64))
    ours = PredictorClient(pod.url.removeprefix("http://"), "sum")
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    theirs = InferenceGRPCClient(pod.grpc_url, channel_args=options, timeout=120)
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(ROUNDS + 1):  # the first round warms both up
        for name, call in (("ours", _ours(ours, volume)), ("theirs", _kserve(theirs, volume))):
            begun = time.perf_counter()
            total = await call
            times[name].append(time.perf_counter() - begun)
            assert np.isclose(total, expected), "the volume changed on its way"
    await ours.close()
    await theirs.close()
    return times["ours"][1:], times["theirs"][1:]


def run() -> Section:
    """The section for the report."""
    with Pod("tests.bench.hop_pod", model_name="sum", grpc_max_message_bytes=1 << 30) as pod:
        pod.until_ready()
        ours, theirs = asyncio.run(_measure(pod))
        peak = pod.peak_rss_mb()
    mine, other = statistics.median(ours), statistics.median(theirs)
    section = Section("The 221 MB hop", "V2 with binary tensors, streamed, against KServe's gRPC hop, to the same pod.")
    section.row("ours, median of 5", f"{mine:.2f} s")
    section.row("KServe gRPC, median of 5", f"{other:.2f} s")
    section.row("ratio (below 1: ours is faster)", f"{mine / other:.2f}")
    section.row("peak RSS, client (both) / pod", f"{own_peak_mb():.0f} / {peak:.0f} MB")
    return section
