"""Networks with one encoder and two decoders, the branches ``teacher`` and ``student``."""
