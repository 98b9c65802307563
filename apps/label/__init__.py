"""The MONAI Label app: what a server offers with a bundle of this project."""
