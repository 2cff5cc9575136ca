"""Finds passages in a small catalogue by their words."""
