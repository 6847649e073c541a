"""Languages as clients write them and as answers name them: ISO-639 codes and lower-case English names.

What is no language is refused here, whether or not anybody speaks in the recording. What a model can do it does not say: which
languages are recognised is the predictor's knowledge, and its refusal of a window with speech.
"""

import re

NAMES = {
    "af": "afrikaans",
    "am": "amharic",
    "ar": "arabic",
    "as": "assamese",
    "az": "azerbaijani",
    "ba": "bashkir",
    "be": "belarusian",
    "bg": "bulgarian",
    "bn": "bengali",
    "bo": "tibetan",
    "br": "breton",
    "bs": "bosnian",
    "ca": "catalan",
    "cs": "czech",
    "cy": "welsh",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "es": "spanish",
    "et": "estonian",
    "eu": "basque",
    "fa": "persian",
    "fi": "finnish",
    "fo": "faroese",
    "fr": "french",
    "gl": "galician",
    "gu": "gujarati",
    "ha": "hausa",
    "haw": "hawaiian",
    "he": "hebrew",
    "hi": "hindi",
    "hr": "croatian",
    "ht": "haitian creole",
    "hu": "hungarian",
    "hy": "armenian",
    "id": "indonesian",
    "is": "icelandic",
    "it": "italian",
    "ja": "japanese",
    "jw": "javanese",
    "ka": "georgian",
    "kk": "kazakh",
    "km": "khmer",
    "kn": "kannada",
    "ko": "korean",
    "la": "latin",
    "lb": "luxembourgish",
    "ln": "lingala",
    "lo": "lao",
    "lt": "lithuanian",
    "lv": "latvian",
    "mg": "malagasy",
    "mi": "maori",
    "mk": "macedonian",
    "ml": "malayalam",
    "mn": "mongolian",
    "mr": "marathi",
    "ms": "malay",
    "mt": "maltese",
    "my": "myanmar",
    "ne": "nepali",
    "nl": "dutch",
    "nn": "nynorsk",
    "no": "norwegian",
    "oc": "occitan",
    "pa": "punjabi",
    "pl": "polish",
    "ps": "pashto",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sa": "sanskrit",
    "sd": "sindhi",
    "si": "sinhala",
    "sk": "slovak",
    "sl": "slovenian",
    "sn": "shona",
    "so": "somali",
    "sq": "albanian",
    "sr": "serbian",
    "su": "sundanese",
    "sv": "swedish",
    "sw": "swahili",
    "ta": "tamil",
    "te": "telugu",
    "tg": "tajik",
    "th": "thai",
    "tk": "turkmen",
    "tl": "tagalog",
    "tr": "turkish",
    "tt": "tatar",
    "uk": "ukrainian",
    "ur": "urdu",
    "uz": "uzbek",
    "vi": "vietnamese",
    "yi": "yiddish",
    "yo": "yoruba",
    "yue": "cantonese",
    "zh": "chinese",
}
"""Code to English name, the spelling of OpenAI's API. Codes are ISO-639-1 but for `haw`, `yue` (ISO-639-3) and `jw`, which
is how Whisper writes Javanese."""

OTHER_CODES = frozenset(
    {
        "aa", "ab", "ae", "ak", "an", "av", "ay", "bi", "bm", "ce", "ch", "co", "cr", "cu", "cv", "dv", "dz", "ee",
        "eo", "ff", "fj", "fy", "ga", "gd", "gn", "gv", "ho", "hz", "ia", "ie", "ig", "ii", "ik", "io", "iu", "jv",
        "kg", "ki", "kj", "kl", "kr", "ks", "ku", "kv", "kw", "ky", "lg", "li", "lu", "mh", "na", "nb", "nd", "ng",
        "nr", "nv", "ny", "oj", "om", "or", "os", "pi", "qu", "rm", "rn", "rw", "sc", "se", "sg", "sm", "ss", "st",
        "ti", "tn", "to", "ts", "tw", "ty", "ug", "ve", "vo", "wa", "wo", "xh", "za", "zu",
    }
)  # fmt: skip
"""The codes of ISO-639-1 that are not in `NAMES`: languages that another model may know."""

_CODES = {name: code for code, name in NAMES.items()}
_CODE = re.compile(r"([a-z]{2,3})(?:[-_][a-z0-9]{1,8})*")  # a BCP-47 tag: its first subtag is the ISO-639 code


def code(text: str) -> str | None:
    """The ISO-639 code in what a client wrote: a code, a BCP-47 tag ("en-US"), or an English name ("english").

    Returns:
        The lower-case code; None for "auto" and for nothing, which both leave the detection to the model.

    Raises:
        ValueError: it is none of these; the message says what is accepted.
    """
    wanted = text.strip().lower()
    if wanted in ("", "auto"):
        return None
    if wanted in _CODES:
        return _CODES[wanted]
    tag = _CODE.fullmatch(wanted)
    if tag is None or (tag[1] not in NAMES and tag[1] not in OTHER_CODES):
        raise ValueError("send an ISO-639-1 code such as 'en', an English name such as 'english', or 'auto'")
    return tag[1]


def name(code: str | None) -> str:
    """The English name of a language, as OpenAI's verbose_json has it.

    A code without a name here stands for itself; "unknown" stands for a language that was neither given nor detected,
    which is what a recording without speech has.
    """
    return NAMES.get(code, code) if code else "unknown"
