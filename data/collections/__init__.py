"""Public data sets that the project can prepare."""
