"""Copy an index to another folder: the files its manifest names, and then the manifest."""

from __future__ import annotations

import shutil
from pathlib import Path

from safe_retrieval.errors import IndexFolderError
from safe_retrieval.index.publish import locked, publish, writing
from safe_retrieval.index.searchable import SearchableIndex


def copy_index(index: SearchableIndex, path: str | Path) -> None:
    """Write the state that an opened index shows into another folder, in the place of an index that may be there.

    Args:
        index: what to copy; copying it onto its own folder changes nothing.
        path: a new or empty folder, or one that holds an index.

    Raises:
        IndexFolderError: the folder holds something else or cannot be written; or another process changed the index
            meanwhile and removed a file of this state (``refresh`` goes on to the new one).
        IndexLockedError: another process is writing there.
    """
    folder = Path(path)
    if folder.resolve() == index.path.resolve():
        return
    manifest = index.manifest
    with locked(folder), writing(folder, mend="copy again"):
        for record in manifest.files():
            source = index.path / record.name
            if not source.is_file():
                raise IndexFolderError(
                    f"{source} is gone: the index was changed since it was opened; refresh it, and copy again"
                )
            shutil.copyfile(source, folder / record.name)
        publish(manifest, folder)
