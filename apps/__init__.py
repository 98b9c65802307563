"""What the commands, MONAI Label and Python users call; a room a purpose."""
