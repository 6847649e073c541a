"""CT-CLIP: probabilities of findings in a chest CT, from a contrastive model of volumes and reports.

Written from a description of the forward pass; neither code nor weights of the original are here.
"""
