"""Audio captioning behind `caption/1`: what is heard in a window of up to 30 s, in one sentence or in keywords.

    settings ──▶ weights (MODEL_ID → a folder) ──▶ backends/{ctranslate2,torch}: a fine-tuned Whisper
                                                   backends/vllm: Qwen2-Audio on a GPU
    request items ──▶ plans (checks, style) ──▶ captioner: features → beams or samples → captions with scores

It splits no recordings, decides nothing about silence and resamples nothing: `transformers_pre.audio` does.
"""
