"""Groups of faces that show the same image, exactly or nearly."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from affectnet.data.audit.scan import DatasetRows, Scan
from affectnet.data.duplicate_search import duplicate_sets

Kind = Literal["same file", "same pixels", "near"]


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Rows that show the same image, in order; `kind` is the weakest relation among them."""

    rows: tuple[int, ...]
    kind: Kind
    splits: tuple[str, ...]
    expressions: tuple[int, ...]

    @property
    def leak(self) -> bool:
        """Whether the image is in more than one split."""
        return len(self.splits) > 1

    @property
    def disputed(self) -> bool:
        """Whether the image has different expressions."""
        return len(self.expressions) > 1


def find_duplicates(scan: Scan, rows: DatasetRows) -> list[DuplicateGroup]:
    """Group the rows that show the same image; see `duplicate_sets`.

    Same file: equal bytes. Same pixels: equal after decoding. Images that cannot be decoded are
    left out.

    Returns:
        Groups of two rows or more: leaks first, then by size.
    """
    sets = duplicate_sets(scan.thumbnail)
    order = np.argsort(sets, kind="stable")
    starts = np.flatnonzero(np.diff(sets[order], prepend=-1))
    groups = [
        _group(members, scan, rows) for members in np.split(order, starts[1:]) if len(members) > 1
    ]
    return sorted(groups, key=lambda group: (not group.leak, -len(group.rows), group.rows))


def _group(members: NDArray[np.int64], scan: Scan, rows: DatasetRows) -> DuplicateGroup:
    kind: Kind = "near"
    if len(set(scan.file_hash[members].tolist())) == 1:
        kind = "same file"
    elif len(set(scan.pixel_hash[members].tolist())) == 1:
        kind = "same pixels"
    known = rows.expression[members]
    return DuplicateGroup(
        tuple(members.tolist()),
        kind,
        tuple(rows.splits[i] for i in np.unique(rows.split[members])),
        tuple(np.unique(known[known >= 0]).tolist()),
    )
