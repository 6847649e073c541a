"""Kaldi's family behind `asr/1`: GigaAM, Vosk 5 and other offline models on sherpa-onnx, classic Vosk models on vosk.

    settings ──▶ folder (which model lies there, and is it whole) ──▶ backends/{sherpa_onnx,vosk}
    request items ──▶ recognizer: checks, padding ──▶ backend: a batch at once ──▶ words from tokens ──▶ results

It splits no recordings and finds no voice activity: `transformers_pre.audio` does.
"""
