"""Copy an index to another folder: the files its manifest names, and then the manifest."""

from __future__ import annotations

import shutil
from pathlib import Path

from safe_retrieval.errors import IndexFolderError, IndexFormatError
from safe_retrieval.index.manifest import Check, check_file, sync_file
from safe_retrieval.index.publish import CHANGE_FOLDER, emptied, locked, publish, writing
from safe_retrieval.index.searchable import SearchableIndex


def _readable(source: Path) -> Path:
    try:
        source.open("rb").close()
    except FileNotFoundError as error:
        raise IndexFolderError(
            f"{source} is gone: the index was changed since it was opened; refresh it, and copy again"
        ) from error
    except OSError as error:
        raise IndexFormatError(f"{source} cannot be read: {error}; restore it, or build the index again") from error
    return source


def copy_index(index: SearchableIndex, path: str | Path) -> None:
    """Write the state that an opened index shows into another folder, in the place of an index that may be there.

    Args:
        index: what to copy; copying it onto its own folder changes nothing.
        path: a new or empty folder, or one that holds an index.

    Raises:
        IndexFolderError: the folder holds something else or cannot be written; or another process changed the index
            meanwhile and removed a file of this state (``refresh`` goes on to the new one).
        IndexFormatError: a file of the index is damaged; an index that was at the folder stays as it is.
        IndexLockedError: another process is writing there.
    """
    folder = Path(path)
    if folder.resolve() == index.path.resolve():
        return
    manifest = index.manifest
    with locked(folder), writing(folder, mend="copy again"), emptied(folder / CHANGE_FOLDER) as aside:
        for record in manifest.files():
            source = _readable(index.path / record.name)
            # Never over a file that is there: an index at that folder may have the same one, and readers.
            copied = Path(shutil.copyfile(source, aside / record.name))
            try:
                check_file(aside, record, Check.FULL)
            except IndexFormatError:
                check_file(index.path, record, Check.FULL)  # names the file that is damaged, if it is the source
                raise
            sync_file(copied)
            copied.replace(folder / record.name)
        publish(manifest, folder)
