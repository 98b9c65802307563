"""How scores and cases are drawn, tabulated and written; no image is opened here."""
