"""From nothing to a trained student beside its lower bound."""
