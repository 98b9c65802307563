"""``python -m mixseg``: the command ``mixseg``, as ``torchrun -m mixseg`` starts it."""

from mixseg.cli.main import app

if __name__ == "__main__":
    app(prog_name="mixseg")
