"""How fast the queue is beside what one would use instead; see __main__.py."""
