"""Applications that commands, MONAI Label and Python users call, one folder per purpose."""
