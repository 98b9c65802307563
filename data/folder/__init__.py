"""Data sets of one's own: what a folder holds, found out, checked and written as a datalist."""

from mixseg.data.folder.inspection import FolderOptions, FolderReport, inspect_folder
from mixseg.data.folder.writing import prepare_folder, write_folder

__all__ = ["FolderOptions", "FolderReport", "inspect_folder", "prepare_folder", "write_folder"]
