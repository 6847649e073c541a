"""The public routes of the captioning transformer: the captioning service's own, and OpenAI's chat completions."""
