"""The public routes of the CT transformer, one module a service; each has `router(…)`.

A form or a link comes in (`transformers_pre.dicom.forms`, `serving.uploads`), `Pipeline` works, `answers` writes.
"""
