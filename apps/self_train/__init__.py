"""Proposals for partially labelled cases, and rounds of training on them."""
