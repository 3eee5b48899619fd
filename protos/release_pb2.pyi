from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListReleasesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListReleasesResponse(_message.Message):
    __slots__ = ("releases",)
    RELEASES_FIELD_NUMBER: _ClassVar[int]
    releases: _containers.RepeatedCompositeFieldContainer[Release]
    def __init__(self, releases: _Optional[_Iterable[_Union[Release, _Mapping]]] = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("digest", "size_bytes", "published_unix_s", "images", "class_names", "channels", "image_size_px", "teacher_architecture")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAMES_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_PX_FIELD_NUMBER: _ClassVar[int]
    TEACHER_ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size_bytes: int
    published_unix_s: int
    images: int
    class_names: _containers.RepeatedScalarFieldContainer[str]
    channels: int
    image_size_px: int
    teacher_architecture: str
    def __init__(self, digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., published_unix_s: _Optional[int] = ..., images: _Optional[int] = ..., class_names: _Optional[_Iterable[str]] = ..., channels: _Optional[int] = ..., image_size_px: _Optional[int] = ..., teacher_architecture: _Optional[str] = ...) -> None: ...

class DownloadRequest(_message.Message):
    __slots__ = ("digest", "offset_bytes")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    digest: str
    offset_bytes: int
    def __init__(self, digest: _Optional[str] = ..., offset_bytes: _Optional[int] = ...) -> None: ...

class DownloadResponse(_message.Message):
    __slots__ = ("chunk",)
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    def __init__(self, chunk: _Optional[bytes] = ...) -> None: ...
