"""The Python API: ``TextGenerator`` trains, loads, evaluates, saves and exports a text generator.

Users import the names of this package from ``keras_lstmgen``. Code that the command line uses too belongs to the
packages below.
"""
