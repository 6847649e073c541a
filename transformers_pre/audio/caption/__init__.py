"""The audio transformer as it describes what is heard (PIPELINE=caption), before predictors of `caption/1`.

    recording ──▶ media (decode) ──▶ activity (sound or silence) ──▶ split (windows ≤ 30 s) ──▶ predictor ──▶ description
    routes: /process, /caption, /v1/chat/completions; V1 and V2 by `model`

It shares decoding, splitting, uploads and events with the speech pipeline, and neither imports the other's modules.
"""
