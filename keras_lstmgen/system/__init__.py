"""Control the process: cores, memory, signals, standard streams and environment variables.

Code for files belongs to ``files``. Code that uses a model or a corpus does not belong here.
"""
