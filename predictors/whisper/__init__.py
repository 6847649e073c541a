"""Whisper behind `asr/1`: multilingual speech recognition and translation to English, in batches of 30-second windows.

    settings ──▶ weights (MODEL_ID → a folder or checkpoint) ──▶ backends/{ctranslate2,openai_whisper}
    request items ──▶ windows (checks, prompt) ──▶ recognizer: encode, detect, decode up the temperature ladder
                                                   (fallback), tokens → segments, words ──▶ results

It splits no recordings, finds no voice activity and resamples nothing: `transformers_pre.audio` does.
"""
