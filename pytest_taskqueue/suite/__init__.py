"""Test modules that ship."""
