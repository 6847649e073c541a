"""The libraries that caption: two that run the fine-tuned Whisper (`predictors.audio_caption.captioner.Backend`), and vLLM."""
