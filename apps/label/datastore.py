"""MONAI Label's folder of studies, safe against other processes and a killed server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from filelock import FileLock
from monailabel.datastore.local import LocalDatastore

from mixseg.apps.label.access import check_name
from mixseg.files.atomic import strict_json, write_text_atomic

#: Entry of a file's info: it was uploaded or submitted to the server, and not put there otherwise.
_WRITTEN = "written_by_server"


class LabelDatastore(LocalDatastore):
    """A ``LocalDatastore`` that loses nothing.

    MONAI Label writes its datastore file in place, so that a server killed at that moment does not
    start again; and each process writes what it remembers, so that a batch inference in another
    process undoes what was submitted meanwhile. Here the file is replaced atomically, and read
    again before every change. Ids and tags are plain names. The server neither deletes nor loses
    what it did not write itself.
    """

    def __init__(self, studies: str, **options: Any) -> None:
        super().__init__(studies, **options)
        if hasattr(self, "_handler"):
            # A file that is replaced is moved, not modified.
            self._handler.on_moved = self._on_any_event

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """As the parent, on what the file holds now; a scan that the server did not write stays.

        Raises:
            HTTPException: an id that is not a plain name, a file of another kind than scans, or a
                scan of that id that was put there by somebody else.
        """
        if image_id:
            _check("image", image_id)
        name = os.path.basename(image_filename)
        found, extension = self._to_id(name)
        self._check_extension(extension)
        self._init_from_datastore_file()
        image_id = image_id or found
        known = self._datastore.objects.get(image_id)
        path = os.path.join(self._datastore.image_path(), self._filename(image_id, extension))
        if os.path.lexists(path) and not (known and known.image.info.get(_WRITTEN)):
            raise HTTPException(
                409, f"the scan '{image_id}' exists and was not uploaded, so it is not replaced"
            )
        return super().add_image(image_id, image_filename, {**_public(image_info), _WRITTEN: True})

    def remove_image(self, image_id: str) -> None:
        """As the parent, for a scan that was uploaded to the server.

        Raises:
            HTTPException: it was not, or it has a label that was not submitted to the server.
        """
        self._init_from_datastore_file()
        entry = self._datastore.objects.get(image_id)
        if entry and not all(
            data.info.get(_WRITTEN) for data in (entry.image, *entry.labels.values())
        ):
            raise HTTPException(
                403, f"'{image_id}' was not written by this server, which does not delete it"
            )
        super().remove_image(image_id)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        """As the parent, on what the file holds now.

        A label of somebody else that is replaced is kept below ``labels/.replaced``.

        Raises:
            HTTPException: an id or a tag that is not a plain name, or a file of another kind.
        """
        _check("image", image_id)
        _check("tag", label_tag)
        _, extension = self._to_id(os.path.basename(label_filename))
        self._check_extension(extension)
        self._init_from_datastore_file()
        path = Path(self._datastore.label_path(label_tag), self._filename(image_id, extension))
        known = self._datastore.label(image_id, label_tag)
        if path.is_symlink():
            raise HTTPException(409, f"'{path.name}' is a link, which is not followed")
        if path.is_file() and not (known and known.info.get(_WRITTEN)):
            kept = Path(self._datastore.label_path(None), ".replaced", label_tag, path.name)
            kept.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, kept)
        info = {**_public(label_info), _WRITTEN: True}
        return super().save_label(image_id, label_filename, label_tag, info)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """As the parent, for a label that was submitted to the server.

        Raises:
            HTTPException: there is none, or it was put there by somebody else.
        """
        self._init_from_datastore_file()
        label = self._datastore.label(label_id, label_tag)
        if label is None:
            raise HTTPException(404, f"'{label_id}' has no label '{label_tag}'")
        if not label.info.get(_WRITTEN):
            raise HTTPException(
                403,
                f"the label '{label_tag}' of '{label_id}' was not written by this server, which "
                "does not delete it",
            )
        super().remove_label(label_id, label_tag)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """As the parent, on what the file holds now."""
        self._init_from_datastore_file()
        super().update_image_info(image_id, _public(info))

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """As the parent, on what the file holds now."""
        self._init_from_datastore_file()
        super().update_label_info(label_id, label_tag, _public(info))

    def _check_extension(self, extension: str) -> None:
        known = [pattern.replace("*", "") for pattern in self._extensions]
        if extension not in known:
            raise HTTPException(
                400, f"files '{extension}' are not served; known are {', '.join(known)}"
            )

    def _update_datastore_file(self, lock: bool = True) -> None:
        if lock:
            with FileLock(self._lock_file):
                self._update_datastore_file(lock=False)
            return
        self._ignore_event_config = True
        content = self._datastore.model_dump(exclude={"base_path"}, mode="json")
        write_text_atomic(self._datastore_config_path, strict_json(content))
        self._config_ts = os.stat(self._datastore_config_path).st_mtime


def _check(kind: str, name: str) -> None:
    try:
        check_name(kind, name)
    except ValueError as error:
        raise HTTPException(400, str(error)) from error


def _public(info: dict[str, Any] | None) -> dict[str, Any]:
    """What a client says, which is not who wrote the file."""
    return {key: value for key, value in (info or {}).items() if key != _WRITTEN}
