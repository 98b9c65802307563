"""MONAI Label's folder of studies, safe against other processes and a killed server."""

from __future__ import annotations

import os
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import LocalDatastore

from mixseg.files.atomic import strict_json, write_bytes_atomic

__all__ = ["LabelDatastore"]


class LabelDatastore(LocalDatastore):
    """A ``LocalDatastore`` that loses nothing.

    MONAI Label writes its datastore file in place, so that a server killed at that moment does not
    start again; and each process writes what it remembers, so that a batch inference in another
    process undoes what was submitted meanwhile. Here the file is replaced atomically, and read
    again before every change.

    Args:
        studies: the folder.
        **options: of ``LocalDatastore``.
    """

    def __init__(self, studies: str, **options: Any) -> None:
        super().__init__(studies, **options)
        if hasattr(self, "_handler"):
            # A file that is replaced is moved, not modified.
            self._handler.on_moved = self._on_any_event

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """As the parent, on what the file holds now."""
        self._init_from_datastore_file()
        return super().add_image(image_id, image_filename, image_info)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        """As the parent, on what the file holds now."""
        self._init_from_datastore_file()
        return super().save_label(image_id, label_filename, label_tag, label_info)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """As the parent, on what the file holds now."""
        self._init_from_datastore_file()
        super().update_image_info(image_id, info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """As the parent, on what the file holds now."""
        self._init_from_datastore_file()
        super().update_label_info(label_id, label_tag, info)

    def _update_datastore_file(self, lock: bool = True) -> None:
        if lock:
            with FileLock(self._lock_file):
                self._update_datastore_file(lock=False)
            return
        self._ignore_event_config = True
        content = self._datastore.model_dump(exclude={"base_path"}, mode="json")
        write_bytes_atomic(self._datastore_config_path, strict_json(content).encode())
        self._config_ts = os.stat(self._datastore_config_path).st_mtime
