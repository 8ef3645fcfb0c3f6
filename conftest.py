"""For the project's own tests. The plugin under test comes from its entry point, it is not loaded here."""

pytest_plugins = ["pytester"]
