"""The libraries that run Whisper, each behind `predictors.whisper.recognizer.Backend`."""
