"""Data sets of one's own: what a folder holds, found out, checked and written as a datalist."""
