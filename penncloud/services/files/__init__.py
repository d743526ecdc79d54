"""Files: each user's tree of folders and files.

- names and what is wrong with them: `_names.py`
- how a tree lies in its row: `_layout.py`
- looking: `_tree.py`; changing: `_changes.py`; uploading: `_upload.py`, `_uploaded.py`
- clearing away deleted folders: `_clearing.py`
"""

from penncloud.services.files._changes import Item, Outcome
from penncloud.services.files._errors import (
    AlreadyStored,
    BadName,
    Busy,
    Changed,
    FilesError,
    IntoItself,
    NameTaken,
    NoSuchEntry,
    TooDeep,
)
from penncloud.services.files._home import Files, Home
from penncloud.services.files._layout import ROOT, Entry, row_of
from penncloud.services.files._names import clean_name
from penncloud.services.files._tree import Folder, Listing
from penncloud.services.files._upload import Upload

__all__ = [
    "ROOT",
    "AlreadyStored",
    "BadName",
    "Busy",
    "Changed",
    "Entry",
    "Files",
    "FilesError",
    "Folder",
    "Home",
    "IntoItself",
    "Item",
    "Listing",
    "NameTaken",
    "NoSuchEntry",
    "Outcome",
    "TooDeep",
    "Upload",
    "clean_name",
    "row_of",
]
