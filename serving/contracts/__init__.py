"""What crosses the hop between a transformer and a predictor: one module a modality, one version each.

A contract says how an item (one window of audio, one volume) becomes V2 tensors and back. Both sides import the same
module, so a change of it is a change of both; it only ever grows, because a canary mixes revisions of the two.
"""
