"""`python -m transformers_pre.dicom --model_name NAME --predictor_host HOST`: the CT transformer's pod."""

from serving import waking

if __name__ == "__main__":
    waking.wake_predictor()
    from transformers_pre.dicom.pod import main  # its imports take a second or more; the predictor starts meanwhile

    main()
