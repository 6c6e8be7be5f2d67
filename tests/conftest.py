"""Fixtures that every part's tests share."""

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real videos (`W3RAY_REAL_DATA`, else `../shared/data` beside the repository).

    Where the variable is set the folder must exist: a wrong path is an error, not a skip.
    """
    configured = os.environ.get("W3RAY_REAL_DATA")
    folder = Path(configured) if configured else REPO.parent / "shared" / "data"
    if not folder.is_dir():
        if configured:
            raise FileNotFoundError(f"W3RAY_REAL_DATA={configured}: no such folder")
        pytest.skip(f"real videos are absent: put them at {folder} or set W3RAY_REAL_DATA")
    return folder
