"""Files on their way into a transformer: forms, links, bytes inside JSON and tensors; under limits, spooled to disk.

What a file is, and what a form's fields mean, the transformers know.
"""
