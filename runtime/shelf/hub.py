"""Models from a Hugging Face hub: which file of a repository, and fetching it.

``hf:owner/repo``, ``hf:owner/repo:file.gguf`` or ``hf:owner/repo:Q4_K_M``. Fetching is
``huggingface_hub``'s, into its standard cache, with ``HF_TOKEN``, ``HF_ENDPOINT``,
``HF_HOME`` and ``HF_HUB_CACHE`` as everywhere. The library's own downloads begin anew
in another process; a model is large, so ours are kept beside the cache's blobs under a
name that does not change, and go on where they stopped.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from runtime.bundle.modelindex import PART
from runtime.bundle.spelling import did_you_mean
from runtime.errors import EXIT_MODEL, EXIT_USAGE, EngineError

_REFERENCE = re.compile(
    r"(?:hf:(?://)?|(?:https://)?(?:hf\.co|huggingface\.co)/)"
    r"(?P<repo>[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95})"
    r"(?::(?P<choice>[^:]{1,256}))?"
)
_SAFE_FILE = re.compile(r"(?!.*(?:^|/)\.\.?(?:/|$))[A-Za-z0-9][A-Za-z0-9 ._+()/-]{0,254}\.gguf")
#: Files beside a model that are no language model of their own.
_COMPANIONS = re.compile(r"(?:^|[-._/])(?:mmproj|imatrix)(?:$|[-._/])", re.IGNORECASE)

#: Which encoding is taken where none is named. Unquantized first, since a plan
#: quantizes to what it wants; bf16 before f16, because it is what models are trained in.
PREFERENCE = ("BF16", "F16", "F32", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M")

_LARGEST_PLAIN_DOWNLOAD = 50 * 10**9


@dataclass(frozen=True)
class RemoteModel:
    """One model of a repository: the names of its parts in order."""

    files: tuple[str, ...]

    @property
    def label(self) -> str:
        """The path without suffix and part number."""
        name = PurePosixPath(self.files[0])
        match = PART.fullmatch(name.name)
        return str(name.with_name(match["stem"] if match else name.stem))


@dataclass(frozen=True)
class PulledModel:
    """A fetched model: its first file in the cache, and where it came from."""

    path: Path
    source: str


def parse_reference(reference: str) -> tuple[str, str | None]:
    """``hf:owner/repo[:choice]`` → repository and choice; raises ``bad_model_reference``."""
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise EngineError(
            "bad_model_reference",
            f"{reference!r} names no model of a hub",
            allowed="hf:OWNER/REPO, hf:OWNER/REPO:FILE.gguf or hf:OWNER/REPO:QUANTIZATION",
            hint="engine models pull hf:owner/repo:Q8_0",
            exit_code=EXIT_USAGE,
        )
    return match["repo"], match["choice"]


def models_of(files: Sequence[str]) -> list[RemoteModel]:
    """The models among a repository's files; split ones are one model, incomplete ones none."""
    names = sorted(name for name in files if _SAFE_FILE.fullmatch(name) and not _COMPANIONS.search(name))
    models: dict[str, list[str]] = {}
    for name in names:
        match = PART.fullmatch(PurePosixPath(name).name)
        stem = str(PurePosixPath(name).with_name(f"{match['stem']}-of-{match['count']}")) if match else name
        models.setdefault(stem, []).append(name)
    complete = []
    for parts in models.values():
        match = PART.fullmatch(PurePosixPath(parts[0]).name)
        if match is None or [int(_part(part)) for part in parts] == list(range(1, int(match["count"]) + 1)):
            complete.append(RemoteModel(tuple(parts)))
    return complete


def choose_model(repo: str, files: Sequence[str], choice: str | None) -> RemoteModel:
    """The model that ``choice`` (a file or an encoding) names, or the one to prefer.

    Raises ``unknown_model_file`` or ``ambiguous_model``, listing what there is.
    """
    models = models_of(files)
    if not models:
        raise _no_choice("unknown_model_file", f"{repo} holds no GGUF model", [], None)
    if choice is not None and choice.endswith(".gguf"):
        found = [model for model in models if choice in model.files]
    elif choice is not None:
        found = [model for model in models if _has_encoding(model, choice)]
    else:
        found = models if len(models) == 1 else []
        for encoding in PREFERENCE if not found else ():
            found = [model for model in models if _has_encoding(model, encoding)]
            if found:
                break
    if len(found) == 1:
        return found[0]
    if found:
        message = (
            f"{len(found)} models of {repo} match {choice!r}" if choice else f"{repo} has several models"
        )
        raise _no_choice("ambiguous_model", message, found, None)
    message = f"{repo} has no {choice!r}" if choice else f"{repo} has no model of a known encoding"
    raise _no_choice("unknown_model_file", message, models, choice)


def pull_model(reference: str, revision: str | None = None) -> PulledModel:
    """Fetches a model into the hub's cache; what is there already is not fetched again.

    The revision is pinned to a commit before anything is fetched, and nothing enters
    the cache whose SHA-256 is not the hub's. Raises ``hub_error`` and its kin,
    ``download_damaged``, or what :func:`choose_model` raises.
    """
    from huggingface_hub import HfApi

    repo, choice = parse_reference(reference)
    with hub_errors(repo):
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
        siblings = {item.rfilename: item for item in info.siblings or ()}
        model = choose_model(repo, list(siblings), choice)
        paths = [_fetch(repo, name, str(info.sha), _lfs_digest(siblings[name])) for name in model.files]
    return PulledModel(paths[0], f"hf:{repo}:{model.files[0]}@{info.sha}")


def _fetch(repo: str, name: str, commit: str, digest: str | None) -> Path:
    """One file in the cache, fetched if it is not there."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub import try_to_load_from_cache as cached
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    if isinstance(found := cached(repo, name, revision=commit), str):
        return Path(found)
    url, headers = hf_hub_url(repo, name, revision=commit), build_hf_headers()
    metadata = get_hf_file_metadata(url, headers=headers)
    etag, size = metadata.etag or "", metadata.size
    # Without a usable name and size there is nothing to go on with later; beyond the size
    # that plain HTTP serves, the library has means of its own.
    if re.fullmatch(r"[A-Za-z0-9]{16,128}", etag) and size is not None and size <= _LARGEST_PLAIN_DOWNLOAD:
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"
        folder.mkdir(parents=True, exist_ok=True)
        _fetch_blob(url, headers, folder / etag, size, digest)
    # With its blob in place this only links the file's name to it.
    return Path(hf_hub_download(repo, name, revision=commit))


def _fetch_blob(url: str, headers: dict[str, str], blob: Path, size: int, digest: str | None) -> None:
    """Fetches ``url`` into ``blob``, beginning where an earlier attempt stopped."""
    from huggingface_hub.file_download import http_get

    partial = blob.with_name(f"{blob.name}.engine-partial")
    with partial.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # a second pull of the same file waits, then finds it
        if blob.exists():
            partial.unlink(missing_ok=True)
            return
        if file.tell() > size:
            file.truncate(0)
        file.seek(0, os.SEEK_END)
        http_get(
            url,
            file,
            resume_size=file.tell(),
            headers=headers,
            expected_size=size,
            displayed_filename=url.rpartition("/")[2],
        )
        file.flush()
        os.fsync(file.fileno())
        _check_digest(partial, digest)
        os.replace(partial, blob)


def _part(name: str) -> str:
    match = PART.fullmatch(PurePosixPath(name).name)
    return match["part"] if match else "0"


def _has_encoding(model: RemoteModel, encoding: str) -> bool:
    pattern = rf"(?:^|[-._/]){re.escape(encoding)}(?:$|[-./])"
    return re.search(pattern, model.label, re.IGNORECASE) is not None


def _no_choice(code: str, message: str, models: Sequence[RemoteModel], choice: str | None) -> EngineError:
    names = [model.files[0] for model in models]
    return EngineError(
        code,
        message,
        allowed=", ".join(names[:40]) or None,
        hint=did_you_mean(choice, names) or ("name one of its files" if names else None),
        exit_code=EXIT_MODEL,
    )


def _lfs_digest(sibling: Any) -> str | None:
    """The SHA-256 that the hub keeps of a large file, or None."""
    lfs = getattr(sibling, "lfs", None)
    digest = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
    return digest if isinstance(digest, str) and digest else None


def _check_digest(path: Path, wanted: str | None) -> None:
    """Refuses, and removes, a fetched file that is not what the hub says."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if wanted is not None and found != wanted:
        path.unlink(missing_ok=True)
        raise EngineError(
            "download_damaged",
            f"the fetched file's SHA-256 is {found}, the hub says {wanted}",
            path=str(path),
            hint="pull again; it begins anew",
            exit_code=EXIT_MODEL,
        )


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """What goes wrong between us and the hub, as errors with a code and a hint."""
    from huggingface_hub import errors

    def error(code: str, message: str, hint: str) -> EngineError:
        return EngineError(code, message, path=f"hf:{repo}", hint=hint, exit_code=EXIT_MODEL)

    try:
        yield
    except EngineError:
        raise
    except errors.GatedRepoError as cause:
        hint = "accept its terms on its page, then set HF_TOKEN"
        raise error("hub_not_permitted", "the repository asks for its terms to be accepted", hint) from cause
    except errors.RepositoryNotFoundError as cause:
        hint = "check the spelling; a private repository needs HF_TOKEN"
        raise error("hub_not_found", f"the hub has no repository {repo!r} that we may see", hint) from cause
    except (errors.RevisionNotFoundError, errors.EntryNotFoundError) as cause:
        raise error("hub_not_found", _first_line(cause), "check the revision and the file") from cause
    except errors.HfHubHTTPError as cause:
        code = getattr(cause.response, "status_code", 0)
        name = "hub_not_permitted" if code in (401, 403) else "hub_error"
        raise error(name, _first_line(cause), "check HF_TOKEN and HF_ENDPOINT, or try again later") from cause
    except (ConnectionError, TimeoutError) as cause:
        raise error("hub_unreachable", _first_line(cause), "check the network and HF_ENDPOINT") from cause
    except OSError as cause:
        if cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            hint = "free some space and pull again, it goes on where it stopped; or set HF_HOME elsewhere"
            raise error("disk_full", _first_line(cause), hint) from cause
        if cause.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            hint = "set HF_HOME to a folder that can be written"
            raise error("not_permitted", _first_line(cause), hint) from cause
        raise error("hub_error", _first_line(cause), "pull again: what was fetched is kept") from cause
    except Exception as cause:
        # Which exception a failing connection raises depends on the library's HTTP client.
        if not type(cause).__module__.startswith(("httpx", "httpcore", "requests", "urllib3")):
            raise
        raise error("hub_unreachable", _first_line(cause), "check the network and HF_ENDPOINT") from cause


def _first_line(cause: BaseException) -> str:
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__
