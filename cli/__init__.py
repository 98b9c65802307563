"""The ``mixseg`` command; every command is a function in its own module, registered in main."""
