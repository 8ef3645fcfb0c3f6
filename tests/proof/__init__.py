"""The proofs: what the queue promises, tried on real processes that are really killed.

`python -m tests.proof` runs them all at the size of every CI run, `--campaign` at the size of a long night. Each
proof is a table of cases; a case plays one story in processes of its own and tells what it found.
"""
