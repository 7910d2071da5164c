"""MediaPipe's matrix files: the message `mediapipe.MatrixData`, with the Protocol Buffers library alone."""

from functools import lru_cache
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


@lru_cache(maxsize=1)
def _message() -> Any:
    """The class of `MatrixData`: rows = 1, cols = 2, packed_data = 3, layout = 4 (0 column major, 1 row major)."""
    file = descriptor_pb2.FileDescriptorProto(
        name="yt8m/matrix_data.proto", package="yt8m.mediapipe", syntax="proto2"
    )
    message = file.message_type.add(name="MatrixData")
    field = descriptor_pb2.FieldDescriptorProto
    for name, number in (("rows", 1), ("cols", 2), ("layout", 4)):
        message.field.add(name=name, number=number, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL)
    data = message.field.add(name="packed_data", number=3, type=field.TYPE_FLOAT, label=field.LABEL_REPEATED)
    data.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("yt8m.mediapipe.MatrixData"))


def read_matrix(content: bytes) -> np.ndarray:
    """float64 [rows, columns] of a serialized `MatrixData`.

    Raises:
        google.protobuf.message.DecodeError: it is no such message.
        ValueError: it does not hold rows × columns numbers.
    """
    message = _message()()
    message.ParseFromString(content)
    values = np.asarray(message.packed_data, np.float64)
    if not len(values) or len(values) != message.rows * message.cols:
        raise ValueError(f"{len(values)} numbers in a matrix of {message.rows} by {message.cols}")
    if message.layout:
        return values.reshape(message.rows, message.cols)
    return values.reshape(message.cols, message.rows).T
