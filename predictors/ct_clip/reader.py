"""The engine: volumes through the image encoder of each checkpoint, once, and every head over its latents.

torch is imported in `load`. Not here: the files (`bundle.py`), the arithmetic (`encoder.py`, `heads.py`, `risk.py`).
"""

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from predictors.ct_clip.settings import CtClipSettings
from serving.contracts.ct import RISK, CtInput, CtResult, Floats, Scores, Shares
from serving.errors import InvalidInput, ServingError
from serving.hardware import choose_device

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from predictors.ct_clip.bundle import Bundle
    from predictors.ct_clip.encoder import Encoder, Encoding
    from predictors.ct_clip.risk import RiskModel
    from predictors.ct_clip.text import TextEncoder

FILES = {"ctclip": "ctclip.safetensors", "classfine": "classfine.safetensors", "supervised": "supervised.safetensors"}
_LICENCE = "CC-BY-NC-SA-4.0"


@dataclass(eq=False)
class _Checkpoint:
    """A bundle, loaded. Bundles made from one file share the encoder."""

    bundle: "Bundle"
    sha256: str
    encoder: "Encoder"


class CtReader:
    """A `ct/1` engine (`serving.engine.Engine`)."""

    device = "cpu"

    def __init__(self, settings: CtClipSettings):
        self._settings = settings
        self._folder = Path(settings.model_id)
        self._checkpoints: dict[str, _Checkpoint] = {}
        self._risk: RiskModel | None = None
        self._text: TextEncoder | None = None
        self._tokenizer: Tokenizer | None = None
        self._model: dict[str, Any] = {}

    def load(self) -> None:
        """Loads what there is of bundles. Raises ValueError when one does not fit, or none is there."""
        import torch  # noqa: PLC0415  # heavy libraries are imported when they are needed

        from predictors.ct_clip import demo_weights  # noqa: PLC0415
        from predictors.ct_clip.risk import RiskModel  # noqa: PLC0415

        settings = self._settings
        self.device = choose_device(settings.device, torch.cuda.is_available(), "torch")
        if settings.dtype != "float32" and self.device == "cpu":
            raise ValueError(f"DTYPE={settings.dtype} is for GPUs; on CPU it computes in float32")
        torch.set_num_threads(settings.threads())
        # Volumes lie in the request's body, which cannot be written to; they are only read.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        if settings.model_id == demo_weights.NAME:
            self._folder = demo_weights.folder()
        for name in FILES:
            if (file := self._file(name)) is not None:
                self._add(file)
        if not self._checkpoints:
            raise ValueError(
                f"there is no bundle in MODEL_ID={settings.model_id} ({', '.join(FILES.values())}); "
                "make one: python -m predictors.ct_clip.prepare"
            )
        by_text = self._by_text()
        if settings.keep_text_encoder:
            self._keep_text(by_text)
        if (file := self._risk_file()) is not None:
            if by_text is None or "supervised" not in self._checkpoints:
                raise ValueError(f"{file.name} wants the supervised bundle, and one of CT-CLIP or VocabFine")
            labels = [self._checkpoints[head].bundle.labels for head in ("supervised", by_text)]
            self._risk = RiskModel.load(file, labels[0], labels[1], settings.optimal_threshold)
        self._model = self._provenance(file)

    def _file(self, name: str) -> Path | None:
        named: Path | None = getattr(self._settings, f"{name}_model_path")
        file = named or self._folder / FILES[name]
        if named is not None and not file.is_file():
            raise ValueError(f"{name.upper()}_MODEL_PATH: there is no {named}")
        return file if file.is_file() else None

    def _risk_file(self) -> Path | None:
        named = self._settings.lightgbm_model_path
        file = named or self._folder / "lightgbm.txt"
        return file if named is not None or file.is_file() else None

    def _add(self, file: Path) -> None:
        import torch  # noqa: PLC0415

        from predictors.ct_clip import bundle  # noqa: PLC0415
        from predictors.ct_clip.encoder import Encoder  # noqa: PLC0415

        read = bundle.read(file, keep_text=self._settings.keep_text_encoder)
        if read.head in self._checkpoints:
            raise ValueError(f"two bundles are for the head {read.head}")
        shared = [each for each in self._checkpoints.values() if each.bundle.source_sha256 == read.source_sha256]
        if shared:
            encoder = shared[0].encoder
        else:
            with torch.device("meta"):  # no random weights in memory besides the bundle's
                encoder = Encoder(read.config)
            encoder.load_state_dict(dict(read.image), assign=True)
            encoder.eval().to(self.device).prepare()
        served = replace(
            read,
            image={},
            texts=None if read.texts is None else read.texts.to(self.device),
            layer=read.layer and {name: value.to(self.device) for name, value in read.layer.items()},
        )
        self._checkpoints[read.head] = _Checkpoint(served, bundle.sha256(file), encoder)

    def _by_text(self) -> str | None:
        return next((head for head in ("vocabfine", "zero_shot") if head in self._checkpoints), None)

    def _keep_text(self, by_text: str | None) -> None:
        from tokenizers import Tokenizer  # noqa: PLC0415

        from predictors.ct_clip.text import TextEncoder  # noqa: PLC0415

        kept = self._checkpoints[by_text].bundle if by_text else None
        if kept is None or kept.text is None:
            raise ValueError("KEEP_TEXT_ENCODER: no bundle was prepared with --keep-text-encoder")
        self._text = TextEncoder.of("the bundle", kept.text, kept.text_heads).to(self.device)
        self._tokenizer = Tokenizer.from_buffer(kept.tokenizer)

    def _provenance(self, risk: Path | None) -> dict[str, Any]:
        from predictors.ct_clip import bundle  # noqa: PLC0415

        told: dict[str, Any] = {
            head: {"version": each.bundle.version, "sha256": each.sha256, "source_sha256": each.bundle.source_sha256}
            for head, each in self._checkpoints.items()
        }
        if risk is not None:
            told[RISK] = {"sha256": bundle.sha256(risk), "threshold": self._settings.optimal_threshold}
        absent = sorted({"zero_shot", "vocabfine", "classfine", "supervised", RISK} - told.keys())
        return {**told, "absent": absent, "dtype": self._settings.dtype, "licence": _LICENCE}

    def described(self) -> dict[str, Any]:
        """The same provenance as in every answer, `absent` heads by name."""
        return {"model": self._model} if self._model else {}

    def batch_key(self, item: CtInput) -> Hashable:
        """Volumes of one shape share a batch."""
        return item.volume.shape

    def run(self, items: Sequence[CtInput]) -> list[CtResult | ServingError]:
        """Reads volumes; one that does not fit the model, or asks for what it has not, fails alone."""
        refused = {index: error for index, item in enumerate(items) if (error := self._refusal(item)) is not None}
        accepted = [index for index in range(len(items)) if index not in refused]
        results: dict[int, CtResult | ServingError] = dict(refused)
        if accepted:
            found = self._read([items[index] for index in accepted])
            results |= dict(zip(accepted, found, strict=True))
        return [results[index] for index in range(len(items))]

    def _refusal(self, item: CtInput) -> ServingError | None:
        for each in self._checkpoints.values():
            config = each.bundle.config
            slices, *image = item.volume.shape
            if tuple(image) != config.image or slices % config.depth_patch or not slices:
                wanted = f"[a multiple of {config.depth_patch}, {config.image[0]}, {config.image[1]}]"
                return InvalidInput(
                    f"a volume of shape {list(item.volume.shape)}: {wanted} is accepted", param="VOLUME"
                )
        if item.prompts and self._text is None:
            return InvalidInput("prompts of your own are not served here (KEEP_TEXT_ENCODER)", param="PROMPTS")
        have = {*self._checkpoints, *(("prompts",) if item.prompts else ()), *((RISK,) if self._risk else ())}
        if missing := sorted(item.options.wanted - have):
            return InvalidInput(f"heads {', '.join(missing)} have no weights here, there are: {', '.join(sorted(have))}",
                                param="heads")  # fmt: skip
        if item.options.explain and "zero_shot" not in have and "vocabfine" not in have:
            return InvalidInput(
                "there is no head that compares with texts, which an explanation is of", param="explain"
            )
        return None

    def _read(self, items: Sequence[CtInput]) -> list[CtResult]:
        import torch  # noqa: PLC0415

        wanted = [item.options.wanted or {*self._checkpoints, RISK, "prompts"} for item in items]
        needed = set().union(*wanted)
        if RISK in needed and self._risk is not None:
            needed |= {"supervised", str(self._by_text())}
        explained = any(item.options.explain for item in items)
        if explained or any(item.prompts for item in items):
            needed.add(str(self._by_text()))
        each_volume = [torch.from_numpy(np.require(item.volume, requirements="A")).to(self.device) for item in items]
        # A single volume is read where it lies, all 221 MB of it.
        volumes = torch.stack(each_volume) if len(items) > 1 else each_volume[0][None]
        encodings: dict[int, Encoding] = {}
        scores: dict[str, Floats] = {}
        with torch.inference_mode():
            for head, each in self._checkpoints.items():
                if head in needed:
                    if id(each.encoder) not in encodings:
                        dtype = getattr(torch, self._settings.dtype)
                        encodings[id(each.encoder)] = each.encoder(volumes, dtype)
                    scores[head] = self._scores(each, encodings[id(each.encoder)].latent)
            results = [
                self._result(item, index, heads, scores)
                for index, (item, heads) in enumerate(zip(items, wanted, strict=True))
            ]
            return [
                self._with_extras(item, result, index, encodings)
                for index, (item, result) in enumerate(zip(items, results, strict=True))
            ]

    def _scores(self, each: _Checkpoint, latents: "torch.Tensor") -> Floats:
        from predictors.ct_clip import heads  # noqa: PLC0415

        if each.bundle.texts is not None:
            found = heads.by_texts(latents, each.bundle.texts, each.bundle.temperature)
        elif each.bundle.head == "classfine":
            found = heads.classfine(latents, each.bundle.layer or {})
        else:
            found = heads.supervised(latents, each.bundle.layer or {})
        numbers: Floats = found.cpu().numpy()
        return numbers

    def _result(
        self, item: CtInput, index: int, wanted: frozenset[str] | set[str], scores: dict[str, Floats]
    ) -> CtResult:
        of_item = {head: Scores(self._checkpoints[head].bundle.labels, rows[index]) for head, rows in scores.items()}
        risk = None
        if RISK in wanted and self._risk is not None:
            risk = self._risk.assess(of_item["supervised"], of_item[str(self._by_text())])
        return CtResult({head: found for head, found in of_item.items() if head in wanted}, self._model, risk)

    def _with_extras(self, item: CtInput, result: CtResult, index: int, encodings: "dict[int, Encoding]") -> CtResult:
        """The client's own prompts, and the shares of tokens."""
        if not item.prompts and not item.options.explain:
            return result
        from predictors.ct_clip import heads, text  # noqa: PLC0415

        each = self._checkpoints[str(self._by_text())]
        encoding = encodings[id(each.encoder)]
        if item.prompts and self._text is not None and self._tokenizer is not None:
            ids = text.encoded(self._tokenizer, heads.texts(item.prompts), self.device)
            latents = self._text(*ids)
            pairs = latents.view(-1, 2, latents.shape[-1])
            found = heads.by_texts(encoding.latent[index : index + 1], pairs, each.bundle.temperature)[0]
            result = replace(result, scores={**result.scores, "prompts": Scores(item.prompts, found.cpu().numpy())})
        if item.options.explain:
            entries = each.encoder.codebook[encoding.codes[index]]
            parts = heads.shares(entries, each.encoder.to_latent.weight, each.bundle.texts, each.bundle.temperature)
            result = replace(result, shares=Shares.of(each.bundle.labels, parts.cpu().numpy()))
        return result

    def close(self) -> None:
        """Frees the weights."""
        self._checkpoints.clear()
        self._text = self._risk = None
