"""Settings of the CT-CLIP predictor."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from serving.hardware import usable_cores
from serving.settings import MIB, PredictorSettings

_DTYPE_NAMES = {"half": "float16", "fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


def _dtype_name(value: object) -> object:
    name = str(value).strip().lower()
    return _DTYPE_NAMES.get(name, name)


class CtClipSettings(PredictorSettings):
    """The CT-CLIP predictor: which bundles, where they run, and when a risk is a pathology."""

    model_id: str = Field("/mnt/models", min_length=1)
    """Folder of the bundles (`python -m predictors.ct_clip.prepare`): `ctclip.safetensors` (zero-shot or VocabFine),
    `classfine.safetensors`, `supervised.safetensors`, and `lightgbm.txt`. What is not there is not served. `demo:random` is
    a tiny model of random tensors."""
    ctclip_model_path: Path | None = None
    """Bundle of zero-shot CT-CLIP or VocabFine elsewhere; named, it has to be there."""
    classfine_model_path: Path | None = None
    """Bundle of ClassFine elsewhere."""
    supervised_model_path: Path | None = None
    """Bundle of the supervised fine-tune elsewhere."""
    lightgbm_model_path: Path | None = None
    """LightGBM's text file of the risk model elsewhere. It wants the supervised bundle, and CT-CLIP's or VocabFine's."""
    optimal_threshold: float = Field(0.4, gt=0, lt=1)
    """Risk from which on a study counts as pathology."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it runs: `cpu`, `cuda`, or `auto`, which takes the GPU when there is one."""
    dtype: Annotated[Literal["float32", "float16", "bfloat16"], BeforeValidator(_dtype_name)] = "float32"
    """Arithmetic of the image encoder on a GPU. Half precision is 1.6 times as fast there and not equal: with random weights
    0.3 % (float16) and 2.2 % (bfloat16) of the tokens got another code, and probabilities moved by up to 0.004 and 0.009."""
    keep_text_encoder: bool = False
    """Whether requests may bring prompts of their own; wants a bundle prepared with `--keep-text-encoder`, and 440 MB more."""
    num_threads: int = Field(0, ge=0)
    """CPU threads; 0 takes every core that the container may use."""
    max_batch_size: int = Field(1, ge=1)
    """Studies that share one forward pass. On an H100 four take four times as long as one, and 55 MB each."""
    max_queue: int = Field(8, ge=1)
    """Studies that may wait, 221 MB each; more are refused with 503 and Retry-After."""
    max_json_bytes: int = Field(400 * MIB, gt=0)
    """Largest JSON of a request, binary tensors not counted; a volume as base64 takes 282 MiB. Its parsing stops all
    else for 1.5 to 3 ms a MiB, health too: send volumes as binary tensors of V2."""

    def threads(self) -> int:
        """NUM_THREADS, or the cores that this container may use."""
        return self.num_threads or usable_cores()
