"""The windows right before, pooled: how to count the next one, and what they themselves count up to.

    frame, reference = learn_reference(samples, before=last_profile, roles=roles)

Bins and categories are learnt anew from these windows' samples each time, so that they fit whatever the data has drifted to, and nothing
that was learnt on the first day stays for ever.
"""

# pyarrow brings no types of its own, so what comes out of it is unknown to a type checker.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlsec_dagster.stability.counting import counted
from mlsec_dagster.stability.frames import learn_column
from mlsec_dagster.stability.profiles import ColumnFrame, ColumnProfile, Frame, Profile, Roles
from mlsec_dagster.stability.samples import REFERENCE_ROWS

if TYPE_CHECKING:
    import pyarrow as pa


def learn_reference(
    samples: "Sequence[pa.Table]", *, before: Profile, roles: Roles, partition_columns: Sequence[str] = ()
) -> tuple[Frame, Profile]:
    """Learns a frame from the samples of the windows right before, and counts them by it.

    Args:
        samples: Of these windows, oldest first; the same number of rows is taken of each that has the columns of the newest one.
        before: The profile of the newest of them, for the types that columns have in storage.
        roles: Declared columns.
        partition_columns: Columns that tell partitions apart.

    Returns:
        The frame, for windows as they are stored, and the profile of the pooled samples by it.
    """
    import pyarrow as pa

    alike = [table for table in samples if table.schema.equals(samples[-1].schema)]
    each = max(REFERENCE_ROWS // len(alike), 1)
    # A sample lies in random order, so its first rows are a sample too.
    pooled = pa.concat_tables([table.slice(0, each) for table in alike])
    there = Counter(pooled.column_names)  # asked once: with thousands of columns it takes long
    frames: list[ColumnFrame] = []
    profiles: list[ColumnProfile] = []
    for column in before.columns:
        if column.name in roles.ignore or there[column.name] != 1:
            frames.append(ColumnFrame(column.name, column.type, "other"))
            profiles.append(ColumnProfile(column.name, column.type))
            continue
        values = pooled.column(column.name)
        monotone = column.name == roles.time or column.name in partition_columns
        frames.append(learn_column(column.name, column.type, values, roles, monotone=monotone))
        profiles.append(counted(column.name, column.type, values, frames[-1], values))
    return Frame(tuple(frames)), Profile(pooled.num_rows, tuple(profiles))
