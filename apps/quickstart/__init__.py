"""From nothing to a trained network beside its lower bound."""
