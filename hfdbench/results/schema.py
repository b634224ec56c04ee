"""The columns of every table of a results folder, and the version of that layout.

Conventions: one schema per table. A column that was added later stands in `ADDED` and is null in the rows of an older
file; any other difference is refused. results/README.md explains each column.
"""

import pyarrow as pa

from hfdbench.results.columns import POINT_COLUMNS, points_schema

VERSION = 2  # 1: crops/ instead of images/, no record of schema and row count in the file

TYPES = {"int": pa.int64(), "float": pa.float64(), "text": pa.string(), "bool": pa.bool_(), "bytes": pa.binary()}


def _schema(columns: str) -> pa.Schema:
    """Schema of lines "type: column column ..."."""
    pairs = (line.split(":") for line in columns.strip().splitlines())
    return pa.schema([(name, TYPES[kind.strip()]) for kind, names in pairs for name in names.split()])


STREAMS = _schema("""
    int: image
    text: name
    int: width height
    bytes: stream
    int: bytes
    float: encode_s
    text: status error
    bool: passing
    text: host processor device_name
""")
IMAGES = _schema("""
    text: codec point dataset
    int: image
    text: name
    int: width height pixels bytes
    float: bpp mse psnr_db
    bool: identical
    float: ms_ssim encode_s decode_s
    text: stream_sha256 pixels_sha256 status error
    bool: passing
    text: seal host processor device_name encoded_on
    int: batch host_peak_bytes device_peak_bytes
""")


def features_schema(dimensions: int) -> pa.Schema:
    """Schema of features of a network with so many dimensions."""
    return pa.schema([*_schema("int: image top left"), ("features", pa.list_(pa.float32(), dimensions))])


FEATURES = features_schema(2048)
QUALITY = _schema("""
    text: codec point dataset
    int: image
    text: name metric
    float: value
    text: error
""")
POINTS = points_schema()

# Columns that files of an older version lack: of points, and of images and streams.
ADDED = frozenset(
    [
        *(column.name for column in POINT_COLUMNS if not column.required),
        "passing",
        *IMAGES.names[IMAGES.names.index("seal") :],
    ]
)


def completed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table in the columns of `schema`, null in those that were added since it was written.

    Of a points table, columns of metrics that are not known here are left out: the package that adds them is not installed.

    Raises
    ------
    ValueError
        The table lacks another column, or has one that the schema lacks or of another type.
    """
    missing = [field for field in schema if field.name not in table.column_names]
    if other := [field.name for field in missing if field.name not in ADDED]:
        raise ValueError(f"no column {', '.join(other)}")
    for field in missing:
        table = table.append_column(field, pa.nulls(len(table), field.type))
    if schema is POINTS:
        table = table.drop_columns(list(set(table.column_names) - set(schema.names)))
    for field in table.schema:
        if field.name not in schema.names or schema.field(field.name).type != field.type:
            raise ValueError(f'column "{field.name}" ({field.type}) is not of this table')
    if len(table.column_names) != len(schema):
        raise ValueError("a column is there twice")
    return table.select(schema.names).cast(schema)
