"""The models: one folder each, a KServe `Model` behind the contract of its modality."""
