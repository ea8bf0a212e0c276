"""From a file to a data frame with the columns of this library: reading, renaming, filling, choosing rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from thalweg.outcomes import ThalwegError, bad_input

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Assumed", "prepare", "read_frame"]

Assumed = Mapping[str, object | Callable[["pd.DataFrame"], object]]


def prepare(
    df: pd.DataFrame, rename: Mapping[str, str] | None, assume: Assumed | None, where: str | None
) -> pd.DataFrame:
    """A copy of a table with columns renamed, absent ones assumed, and only the rows that `where` keeps.

    Raises:
        ThalwegError: a column to rename that is not there, a condition that is none.

    Example:
        >>> import pandas as pd
        >>> prepare(pd.DataFrame({"N": [1e8, 2e8]}), {"N": "params"}, {"seed": 0}, "params > 1e8").to_dict("list")
        {'params': [200000000.0], 'seed': [0]}
    """
    renamed = _rename(df, rename or {})
    absent = {name: value for name, value in (assume or {}).items() if name not in renamed.columns}
    frame = renamed.assign(**absent).reset_index(drop=True)  # type: ignore[arg-type]
    return _kept(frame, where)


def read_frame(path: Path) -> pd.DataFrame:
    """A CSV or Parquet file as a frame.

    Raises:
        ThalwegError: no such file, not a table, Parquet without pyarrow.
    """
    import pandas as pd

    if not path.is_file():
        raise bad_input("path", str(path), "a CSV or Parquet file", "Check the name and the working directory")
    if path.suffix == ".parquet":
        try:
            return pd.read_parquet(path)
        except ImportError:
            raise ThalwegError(
                f"{path}: reading Parquet needs pyarrow. Write pip install pyarrow, or save a CSV."
            ) from None
    try:
        return pd.read_csv(path)
    except pd.errors.EmptyDataError:
        raise ThalwegError(f"{path}: the file is empty; expected a CSV with a header and a row for each run.") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ThalwegError(f"{path}: not a CSV table ({reason}); expected a header and a row for each run.") from None


def _kept(frame: pd.DataFrame, where: str | None) -> pd.DataFrame:
    if where is None:
        return frame
    try:
        return frame.query(where).reset_index(drop=True)
    except Exception:  # whatever pandas makes of a text that is no such expression
        raise bad_input(
            "where",
            where,
            "a condition on the columns " + ", ".join(map(str, frame.columns)),
            'Write for example "tokens > 2e9"',
        ) from None


def _rename(df: pd.DataFrame, rename: Mapping[str, str]) -> pd.DataFrame:
    columns = [str(column) for column in df.columns]
    for old in rename:
        if old not in columns:
            raise bad_input("rename", old, "a column of the table: " + ", ".join(columns))
    return df.rename(columns=lambda column: rename.get(column, column))
