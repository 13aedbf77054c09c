"""Work with local and remote files: write atomically, list folders, download, and recognize file formats.

Code that reads the content of a corpus belongs to ``data``.
"""
