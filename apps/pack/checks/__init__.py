"""Checks of a bundle; each takes its folder and returns what is wrong, a line a fault."""
