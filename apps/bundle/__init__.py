"""Bundles: where they are, their weights, their archives, and how they are run."""
