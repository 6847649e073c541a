"""The CT transformer: a DICOM series in any wrapping becomes the volume that the chest-CT predictor takes.

`reader.StudyReader` is the entry: it has worker processes (`worker`) list the upload (`archive`), read headers (`header`), decode
pixels (`pixels`, `frames`) and resample (`volume`), and decides in between what is one volume (`series`, `geometry`).

The pod (`pod`) asks the predictor over that volume (`pipeline`), draws where findings come from (`overlay`) and answers
(`answers`, `model`, `routes`).
"""
