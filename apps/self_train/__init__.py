"""Proposals for partially labeled cases, and rounds of training on them."""
