"""The original queue and its inputs."""
