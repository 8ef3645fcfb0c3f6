"""For the project's own tests. Nothing is loaded here: the plugin under test comes from its entry point, and pytester
from `addopts` in pyproject.toml, because with an editable install this file is read by runs in other folders, too.
"""
