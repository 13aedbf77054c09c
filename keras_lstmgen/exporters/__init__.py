"""Export a run to SavedModel, TFLite, ONNX and a web page, and prove that every artifact has the same results as Keras.

Each format has its own module. The folder ``export/`` of the repository contains clients that run an artifact.
"""
