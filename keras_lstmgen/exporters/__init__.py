"""Export a run to SavedModel, TFLite, ONNX and a web page, and compare the results of every artifact with Keras.

Each format has its own module. The folder ``export/`` of the repository contains clients that run an artifact.
"""
