"""Methods compared: experiment lists, their runs, and the tables of the papers."""
