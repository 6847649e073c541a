"""What part of the body a header says that an image shows, in words of our own: a header may hold anything.

`BodyPartExamined` and the anatomic region's code are set by the scanner's protocol and often stay what that says: a scan of the
trunk is labelled as any part of it, or not at all. So only parts that no scan of the chest is labelled by count as another part;
neighbours of the chest are told, and a label that is not known says nothing. Not here: what is done about it (`series`).
"""

import re
from typing import Final

_OTHER: Final = {
    "head": ("HEAD", "BRAIN", "SKULL", "FACE", "ORBIT", "ORBITS", "EYE", "EAR", "IAC", "SINUS", "SINUSES", "PARANASALSINUS",
             "JAW", "MANDIBLE", "MAXILLA", "TEETH", "DENTAL", "SELLA", "TMJ", "69536005", "TD1100", "12738006", "TA0100",
             "89546000", "T11100", "89545001", "TD1200", "363654007", "TD14AE", "117590005", "TAB001", "361078006", "TAB959",
             "2095001", "T22000", "91609006", "T11180", "70925003", "T11170"),
    "arm": ("HAND", "FINGER", "WRIST", "ELBOW", "FOREARM", "UPPERARM", "HUMERUS", "ARM", "UPPERLIMB", "85562004", "TD8700",
            "7569003", "TD8800", "14975008", "TD8500", "40983000", "TD8200", "85050009", "T12410", "53120007", "TD8000"),
    "leg": ("KNEE", "FOOT", "TOE", "ANKLE", "CALCANEUS", "LEG", "LOWERLEG", "THIGH", "FEMUR", "TIBIA", "FIBULA", "PATELLA",
            "LOWERLIMB", "72696002", "TD9200", "56459004", "TD9700", "29707007", "TD9800", "80144004", "T12770", "30021000",
            "TD9400", "68367000", "TD9100", "71341001", "T12710", "12611008", "T12740", "61685007", "TD9000"),
}  # fmt: skip
_NEIGHBOURS: Final = {
    "neck": ("NECK", "CSPINE", "LARYNX", "45048000", "TD1600", "122494005", "T11501"),
    "abdomen": ("ABDOMEN", "LIVER", "KIDNEY", "PANCREAS", "LSPINE", "818981001", "122496007", "T11503"),
    "pelvis": ("PELVIS", "HIP", "BLADDER", "PROSTATE", "SACRUM", "816092008", "29836001", "TD2500"),
}
_BY_LABEL: Final = {
    label: part for parts in (_OTHER, _NEIGHBOURS) for part, labels in parts.items() for label in labels
}

OTHER: Final = frozenset(_OTHER)
"""Parts that no scan of the chest is labelled by."""


def named(labels: list[str]) -> str:
    """The part that the first known of labels is for: defined terms of BodyPartExamined, codes of SNOMED (PS3.16, annex L).

    "" for the chest, for what includes it, and for what is not known.
    """
    found = (_BY_LABEL.get(re.sub(r"[\W_]", "", label.upper())) for label in labels)
    return next((part for part in found if part is not None), "")
