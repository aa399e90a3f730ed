"""Read and write below a URI: local paths, s3://, gs://, … through pyarrow's filesystems.

A file appears under its name only once it is complete: locally by writing to a temporary name and renaming,
on object stores because a put is atomic already.

The endpoint and credentials of s3:// come from the environment, as for AWS's own tools: AWS_ENDPOINT_URL_S3
or AWS_ENDPOINT_URL (for a server other than Amazon's), AWS_REGION, and AWS_ACCESS_KEY_ID with
AWS_SECRET_ACCESS_KEY or a profile. They never come from the address, because addresses are stored.
"""

import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, TypeVar

from pyarrow import fs

from clickprompt.errors import InputError, RunError, has_secret

__all__ = [
    "copy_file",
    "copy_tree",
    "delete_file",
    "delete_half_written",
    "delete_tree",
    "exists",
    "file_size",
    "inside",
    "is_local",
    "is_refusal",
    "join",
    "list_files",
    "list_names",
    "listing",
    "local_copy",
    "machine_folder",
    "move",
    "native",
    "open_input",
    "open_output",
    "patiently",
    "read_bytes",
    "read_json",
    "resolve",
    "sha256",
    "sha256_bytes",
    "stamps",
    "user_errors",
    "write_bytes",
    "write_json",
]

_COPY_CHUNK = 4 << 20
_PATIENCE_S = 120.0
_LONGEST_PAUSE_S = 10.0
_S3 = "s3://"
_S3_REMEDY = (
    "check that the bucket exists and the environment's AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY and AWS_REGION"
)
_TEMPORARY = re.compile(r".+\.tmp-[0-9a-f]{8}")  # names of files that are being written
_OPTIONS = re.compile(r"\?(region|scheme|endpoint_override|allow_\w+)=")


Result = TypeVar("Result")


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the filesystem that serves `uri` and the path inside it. Raises InputError for an unknown
    scheme, or a path that pyarrow can't spell.
    """
    filesystem, path = _resolve(uri)
    if "\0" in path or path.encode(errors="replace").decode() != path:
        raise _unknown(uri, "a path is UTF-8 without NUL characters")
    return filesystem, path


def _resolve(uri: str) -> tuple[fs.FileSystem, str]:
    if "://" not in uri:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    if has_secret(uri) and not uri.startswith(_S3):
        raise InputError(
            f"{uri}: an address with a password or token in it would be stored and shown; give that by the "
            "environment"
        )
    if uri.startswith(_S3):
        with user_errors(uri):
            return _resolve_s3(uri)
    try:
        return fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        raise _unknown(uri, _one_line(error)) from error


def _unknown(uri: str, reason: str) -> InputError:
    return InputError(f"{uri}: this address can't be opened ({reason}); give a local path, s3://… or gs://…")


def _resolve_s3(uri: str) -> tuple[fs.FileSystem, str]:
    """Resolve the address as it is written, as AWS's own tools do; pyarrow would take a pattern's ? for the
    beginning of options.
    """
    path = uri.removeprefix(_S3).rstrip("/")
    bucket = path.split("/", 1)[0]
    if set("@:") & set(bucket) or has_secret(uri):
        raise InputError(
            "an s3:// address with a key in it would be stored and shown; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    if not bucket or "//" in path:
        raise _unknown(uri, "a bucket's name comes first, and no part is empty")
    if _OPTIONS.search(path):
        raise _unknown(uri, "options come from the environment: AWS_ENDPOINT_URL, AWS_REGION")
    return _s3(bucket, os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")), path


@functools.cache
def _s3(bucket: str, endpoint: str | None) -> fs.FileSystem:
    # FileSystem.from_uri would wait three times as long for a server that doesn't answer
    if endpoint:
        scheme, _, host = endpoint.rpartition("://")
        return fs.S3FileSystem(scheme=scheme or "https", endpoint_override=host.rstrip("/"))
    return fs.S3FileSystem(region=fs.resolve_s3_region(bucket))


def is_local(uri: str) -> bool:
    return isinstance(resolve(uri)[0], fs.LocalFileSystem)


def native(uri: str) -> str:
    """Return an absolute local path, or the URI as it is: what Ray takes as a storage path."""
    filesystem, path = resolve(uri)
    return path if isinstance(filesystem, fs.LocalFileSystem) else uri


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *parts])


def inside(uri: str, name: str) -> str:
    """Return the address of a file below `uri` that a file there names, as a manifest does. Raises InputError
    for a name that leads elsewhere.
    """
    below = isinstance(name, str) and name.encode(errors="ignore").decode() == name
    if not below or set(name.split("/")) & {"", ".", ".."} or set(name) & {"\0", "\\"}:
        raise InputError(f"{uri}: names a file {name!r}, which isn't below its folder; get the folder again")
    return join(uri, name)


def exists(uri: str) -> bool:
    filesystem, path = resolve(uri)
    with user_errors(uri):
        return filesystem.get_file_info(path).type != fs.FileType.NotFound


def file_size(uri: str) -> int | None:
    """Return the bytes of a file, or None if there is none."""
    filesystem, path = resolve(uri)
    with user_errors(uri):
        info = filesystem.get_file_info(path)
    return info.size if info.is_file else None


def stamps(uri: str, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return (bytes, time of modification in ns) of those of the files below `uri` that are there."""
    filesystem, path = resolve(uri)
    with user_errors(uri):
        infos = filesystem.get_file_info([f"{path}/{name}" for name in names])
    return {name: (info.size, info.mtime_ns) for name, info in zip(names, infos, strict=True) if info.is_file}


def list_names(uri: str) -> list[str]:
    """Return the sorted names directly below `uri`; empty if it does not exist."""
    filesystem, path = resolve(uri)
    with user_errors(uri):
        return sorted(info.base_name for info in listing(filesystem, path, recursive=False))


def listing(filesystem: fs.FileSystem, path: str, *, recursive: bool) -> list[fs.FileInfo]:
    """Return what is in a folder or below it; nothing if it does not exist. Raises InputError for a file's
    name that pyarrow can't spell.
    """
    infos = filesystem.get_file_info(fs.FileSelector(path, recursive=recursive, allow_not_found=True))
    for info in infos:
        try:
            str(info.path)
        except UnicodeDecodeError as error:
            raise InputError(f"{error.object!r}: a file's name that isn't UTF-8; rename it") from error
    return infos


@contextmanager
def user_errors(uri: str) -> Iterator[None]:
    """Turn an operating system error on `uri` (unreadable, full, …) into one clear line."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{uri}: no such file or folder; check the path") from error
    except OSError as error:
        remedy = (
            _S3_REMEDY if _S3 in uri else "check that the place exists, is yours to use and has space left"
        )
        raise InputError(f"{uri}: {_one_line(error)}; {remedy}") from error


def is_refusal(error: BaseException) -> bool:
    """Return whether the error says that storage failed (can't be reached, is full, read-only, …), and not
    that something isn't there.
    """
    reason = error.__cause__ if isinstance(error, InputError) else error
    return isinstance(reason, OSError) and not isinstance(
        reason, FileNotFoundError | NotADirectoryError | IsADirectoryError
    )


def patiently(action: Callable[[], Result]) -> Result:
    """Return what `action` returns, calling it again with growing pauses while storage refuses it. The action
    must be safe to repeat.

    Raises RunError if storage still refuses after two minutes.
    """
    started, pause = time.monotonic(), 0.5
    while True:
        try:
            return action()
        except (OSError, InputError) as error:
            if not is_refusal(error):
                raise
            waited = time.monotonic() - started
            if waited + pause > _PATIENCE_S:
                raise RunError(f"{_one_line(error)} (tried again for {waited:.0f} s)") from error
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def machine_folder() -> str:
    """Return our own folder on this machine, for this user only. Raises InputError if someone else has taken
    its name.
    """
    folder = os.path.join(tempfile.gettempdir(), f"clickprompt-{os.getuid()}")
    with user_errors(folder):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if os.stat(folder).st_uid != os.getuid():
            raise InputError(f"{folder}: belongs to someone else; set TMPDIR to a folder of yours")
    return folder


def open_input(uri: str) -> IO[bytes]:
    filesystem, path = resolve(uri)
    with user_errors(uri):
        return filesystem.open_input_file(path)


def read_bytes(uri: str) -> bytes:
    with user_errors(uri), open_input(uri) as stream:
        return stream.read()


def read_json(uri: str) -> Any:
    try:
        return json.loads(read_bytes(uri))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{uri}: not valid JSON ({_one_line(error)}); the file is damaged, make it again"
        ) from error


def write_bytes(uri: str, content: bytes) -> None:
    """Write `content` so that `uri` never holds half of it."""
    with open_output(uri) as stream:
        stream.write(content)


@contextmanager
def open_output(uri: str) -> Iterator[IO[bytes]]:
    """Yield a file to write, which appears at `uri` only if the context ends well."""
    filesystem, path = resolve(uri)
    with user_errors(uri):
        if not isinstance(filesystem, fs.LocalFileSystem):
            with tempfile.TemporaryFile() as buffer:
                yield buffer
                buffer.seek(0)
                # compression=None, or else pyarrow would pack a .gz once more
                with filesystem.open_output_stream(path, compression=None) as stream:
                    shutil.copyfileobj(buffer, stream, _COPY_CHUNK)
            return
        # Renaming would replace a device such as /dev/null
        if os.path.exists(path) and not os.path.isfile(path):
            raise InputError(f"{uri}: a folder or device, not a file; give a file's path")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.tmp-{uuid.uuid4().hex[:8]}"
        try:
            with open(temporary, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)


def delete_half_written(uri: str) -> None:
    """Delete what killed processes were writing (`open_output`) in the folder and those below it."""
    if is_local(uri):
        for parent, _, names in os.walk(resolve(uri)[1]):
            for name in names:
                if _TEMPORARY.fullmatch(name):
                    os.unlink(os.path.join(parent, name))


def write_json(uri: str, value: Any) -> None:
    write_bytes(uri, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def sha256_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sha256(uri: str) -> str:
    digest = hashlib.sha256()
    with user_errors(uri), open_input(uri) as stream:
        while chunk := stream.read(_COPY_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def copy_tree(source: str, target: str) -> None:
    """Copy the folder `source` to `target`, across filesystems."""
    source_fs, source_path = resolve(source)
    target_fs, target_path = resolve(target)
    with user_errors(source):
        if source_fs.get_file_info(source_path).type != fs.FileType.Directory:
            raise InputError(f"{source}: no such folder; check the path")
    with user_errors(f"{source} → {target}"):
        target_fs.create_dir(target_path, recursive=True)
        fs.copy_files(source_path, target_path, source_filesystem=source_fs, destination_filesystem=target_fs)


def copy_file(source: str, target: str) -> None:
    """Copy one file, across filesystems, a piece at a time."""
    with open_input(source) as read, open_output(target) as written:
        while chunk := read.read(_COPY_CHUNK):
            written.write(chunk)


def list_files(uri: str) -> list[str]:
    """Return the sorted names of all files below `uri`, with their folders; empty if it does not exist."""
    filesystem, path = resolve(uri)
    with user_errors(uri):
        infos = listing(filesystem, path, recursive=True)
    return sorted(info.path[len(path.rstrip("/")) + 1 :] for info in infos if info.is_file)


@contextmanager
def local_copy(uri: str) -> Iterator[str]:
    """Yield a local folder with the content of `uri`: the folder itself, or a copy of a remote one."""
    if is_local(uri):
        yield resolve(uri)[1]
        return
    with tempfile.TemporaryDirectory(prefix="clickprompt-") as folder:
        copy_tree(uri, folder)
        yield folder


def move(source: str, target: str) -> None:
    filesystem, path = resolve(source)
    with user_errors(f"{source} → {target}"):
        filesystem.move(path, resolve(target)[1])


def delete_file(uri: str) -> None:
    filesystem, path = resolve(uri)
    with user_errors(uri):
        filesystem.delete_file(path)


def delete_tree(uri: str) -> None:
    filesystem, path = resolve(uri)
    with user_errors(uri):
        if filesystem.get_file_info(path).type != fs.FileType.Directory:
            return
        if isinstance(filesystem, fs.S3FileSystem) and "/" not in path:
            filesystem.delete_dir_contents(path)  # a bucket isn't ours to delete
        else:
            filesystem.delete_dir(path)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
