"""The units that a small model tells, with their numbers: letters for GigaAM, word pieces for Vosk 5."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sentencepiece

_SPACE = "▁"
_LETTERS = _SPACE + "абвгдежзийклмнопрстуфхцчшщъыьэюя"
_PIECES = 64
_RESERVED = ("<blk>", "<sos/eos>", "<unk>")  # numbers 0, 1 and 2 of icefall's models


@dataclass(frozen=True)
class Units:
    """`names` by number; `blank` is the number of the one that says nothing."""

    names: tuple[str, ...]
    blank: int
    numbers: Callable[[str], list[int]]
    """Of a text in words and spaces."""
    vocabulary: str = ""
    """A sentencepiece `bpe.vocab`, with which sherpa-onnx splits hotwords; empty for letters."""

    def table(self) -> str:
        """The file `tokens.txt`."""
        return "".join(f"{name} {number}\n" for number, name in enumerate(self.names))


def letters(_texts: Sequence[str]) -> Units:
    """The Russian letters, the blank last."""
    return Units(
        (*_LETTERS, "<blk>"),
        len(_LETTERS),
        lambda text: [_LETTERS.index(letter) for letter in text.replace(" ", _SPACE)],
    )


def pieces(texts: Sequence[str]) -> Units:
    """64 word pieces of `texts` by a unigram model, the blank first; always the same."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="unigram",  # sherpa-onnx splits hotwords by its scores
        vocab_size=_PIECES,
        character_coverage=1.0,
        user_defined_symbols=list(_RESERVED[:2]),
        unk_id=2,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        minloglevel=2,
        num_threads=1,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    names = tuple(processor.id_to_piece(number) for number in range(processor.get_piece_size()))
    vocabulary = "".join(f"{name}\t{processor.get_score(number):g}\n" for number, name in enumerate(names))
    return Units(names, 0, processor.encode, vocabulary)
