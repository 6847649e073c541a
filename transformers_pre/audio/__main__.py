"""`python -m transformers_pre.audio --model_name NAME --predictor_host HOST`: the audio transformer's pod."""

from serving import waking

if __name__ == "__main__":
    waking.wake_predictor()
    from transformers_pre.audio.pod import main  # its imports take a second or more; the predictor starts meanwhile

    main()
