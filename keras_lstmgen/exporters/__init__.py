"""Conversion of a run to SavedModel, TFLite, ONNX and a web page, with the proof of every artifact.

One module per format. Training does not belong here; clients that run an artifact are in ``export/``.
"""
