"""Runs shown: the page, its figures, its pictures."""
