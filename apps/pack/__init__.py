"""Bundles that leave the repository: checked, packed, exported."""
