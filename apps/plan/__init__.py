"""A bundle for the user's own data, fitted to what is measured."""
