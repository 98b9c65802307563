"""Masks of images by a trained bundle."""
