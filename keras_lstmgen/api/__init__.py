"""The Python API: ``TextGenerator`` trains, loads, evaluates, saves and exports a text generator.

Users import the names of this package from ``keras_lstmgen``. The command line uses the modules
``generation_options`` and ``loaded_model`` too.
"""
