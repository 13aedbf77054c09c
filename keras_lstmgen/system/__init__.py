"""Settings and properties of the process: processors, memory, signals, native output, environment variables.

Files belong to ``files``; whatever knows a model or a corpus does not belong here.
"""
