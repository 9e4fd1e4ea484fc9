from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import struct
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tstn
from tstn import data

SIZE, CANVAS = 28, 42


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, timeout: float) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def idx(values: Tensor, dtype: int = 0x08) -> bytes:
    header = bytes((0, 0, dtype, values.dim())) + struct.pack(f">{values.dim()}I", *values.shape)
    return gzip.compress(header + bytes(values.flatten().tolist()))


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A small set in MNIST's form, written to ``tmp_path``."""
    generator = torch.Generator().manual_seed(0)
    files = {}
    for name in data.MNIST_MD5:
        count = 6 if name.startswith("train") else 4
        shape, high = ((count, SIZE, SIZE), 256) if "images" in name else ((count,), 10)
        files[name] = idx(torch.randint(high, shape, generator=generator, dtype=torch.uint8))
        (tmp_path / name).write_bytes(files[name])
    for name, content in files.items():
        monkeypatch.setitem(data.MNIST_MD5, name, hashlib.md5(content).hexdigest())
    return files


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (0, 3)])
def test_read_idx(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = torch.randint(256, shape, dtype=torch.uint8)
    path = tmp_path / "values.gz"
    path.write_bytes(idx(values))
    assert torch.equal(data.read_idx(path), values)


GOOD = idx(torch.arange(6, dtype=torch.uint8).view(2, 3))
DAMAGED = {
    "not gzip": (b"no gzip at all", "not a whole gzip file"),
    "cut short": (GOOD[:-9], "not a whole gzip file"),
    "flipped bits": (GOOD[:12] + bytes(b ^ 0xFF for b in GOOD[12:]), "not a whole gzip file"),
    "empty": (gzip.compress(b""), "not an idx file"),
    "magic": (gzip.compress(b"\1\0\x08\1\0\0\0\0"), "not an idx file"),
    "dtype": (idx(torch.arange(6, dtype=torch.uint8), dtype=0x0D), "unsigned bytes, idx type 0x08; got 0x0d"),
    "header cut": (gzip.compress(b"\0\0\x08\3\0\0\0\1"), "its shape"),
    "no dims": (gzip.compress(b"\0\0\x08\0\7"), "its shape"),
    "too few": (gzip.compress(gzip.decompress(GOOD)[:-1]), r"shape \(2, 3\) says; got 5"),
    "too many": (gzip.compress(gzip.decompress(GOOD) + b"\0"), r"shape \(2, 3\) says; got 7"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_read_idx_refuses(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "values.gz"
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=message) as error:
        data.read_idx(path)
    assert str(path) in str(error.value)


@pytest.mark.usefixtures("mnist")
def test_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = data.load_mnist(tmp_path)
    assert digits.train_images.shape == (6, 1, SIZE, SIZE)
    assert digits.test_images.shape == (4, 1, SIZE, SIZE)
    assert digits.train_images.dtype == torch.float32
    assert digits.train_labels.dtype == torch.int64
    raw = data.read_idx(tmp_path / "train-images-idx3-ubyte.gz")
    assert torch.equal((digits.train_images[:, 0] * 255).round().to(torch.uint8), raw)
    monkeypatch.setenv("TSTN_DATA", str(tmp_path))
    assert torch.equal(data.load_mnist().test_labels, digits.test_labels)


def test_default_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TSTN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert data.default_root() == Path("cache/tstn/mnist")


@pytest.mark.usefixtures("mnist")
def test_mnist_wrong_md5(tmp_path: Path) -> None:
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(b"other")
    found = hashlib.md5(b"other").hexdigest()
    with pytest.raises(data.DataError, match=f"damaged.* {data.MNIST_MD5[path.name]}, but is {found}") as error:
        data.load_mnist(tmp_path)
    assert str(path) in str(error.value)
    assert path.read_bytes() == b"other"


def test_mnist_wrong_shape(mnist: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "train-labels-idx1-ubyte.gz"
    content = mnist["t10k-labels-idx1-ubyte.gz"]
    (tmp_path / name).write_bytes(content)
    monkeypatch.setitem(data.MNIST_MD5, name, hashlib.md5(content).hexdigest())
    with pytest.raises(data.DataError, match=r"train images and labels must have shapes"):
        data.load_mnist(tmp_path)


def test_mnist_missing_without_download(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match="is missing; put the four files"):
        data.load_mnist(tmp_path, download=False)


def test_mnist_missing_without_network(tmp_path: Path) -> None:
    root = tmp_path / "new"
    with pytest.raises(data.DataError, match="could not be downloaded") as error:
        data.load_mnist(root)
    message = str(error.value)
    assert "no network" in message
    assert all(text in message for text in (*data.MNIST_MIRRORS, *data.MNIST_MD5, str(root), "--data-root"))
    assert not root.exists()


def test_mnist_downloads(mnist: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise http.client.IncompleteRead(b"")

    def answer(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        mirror, name = url.rsplit("/", 1)
        if mirror + "/" == data.MNIST_MIRRORS[1]:
            return io.BytesIO(mnist[name])
        return Broken() if "images" in name else io.BytesIO(b"damaged on the way")

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    root = tmp_path / "new" / "folder"
    first = data.load_mnist(root)
    assert asked == [mirror + name for name in mnist for mirror in data.MNIST_MIRRORS]
    assert {path.name: path.read_bytes() for path in root.iterdir()} == mnist
    assert torch.equal(first.train_images, data.load_mnist(root).train_images)
    assert len(asked) == 8


def test_mnist_unusable_root(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(data.DataError, match="cannot read"):
        data.load_mnist(tmp_path / "file")


def test_write_atomically(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file"
    data.write_atomically(path, b"one")
    data.write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(data.DataError, match="cannot write"):
        data.write_atomically(path / "below", b"")
    with pytest.raises(data.DataError, match="cannot write"):
        data.write_atomically(path.parent, b"")
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(
    not all((data.default_root() / name).exists() for name in data.MNIST_MD5), reason="no MNIST in TSTN_DATA"
)
def test_real_mnist() -> None:
    digits = data.load_mnist(download=False)
    assert digits.train_images.shape == (60_000, 1, SIZE, SIZE)
    assert digits.test_images.shape == (10_000, 1, SIZE, SIZE)
    assert digits.train_labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert digits.train_images.mean() == pytest.approx(0.1307, abs=1e-4)


def test_digits() -> None:
    digits = data.load_digits()
    assert digits.train_images.shape == (1297, 1, SIZE, SIZE)
    assert digits.test_images.shape == (500, 1, SIZE, SIZE)
    for images, labels in (
        (digits.train_images, digits.train_labels),
        (digits.test_images, digits.test_labels),
    ):
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert images.amin() == 0
        assert 0.9 < images.amax() <= 1
        assert labels.unique().tolist() == list(range(10))
        frame = torch.cat((images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]))
        assert frame.amax() < 0.1
    again = data.load_digits()
    assert torch.equal(again.train_images, digits.train_images)
    assert torch.equal(again.test_labels, digits.test_labels)


def test_digits_without_sklearn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(data.DataError, match=r"pip install '\.\[demo\]'"):
        data.load_digits()


def test_digits_to() -> None:
    digits = data.Digits(*torch.zeros(4, 2))
    assert all(t.device.type == "meta" for t in vars(digits.to("meta")).values())


def placed(image: Tensor, angle: float, scale: float, centre: tuple[float, float], canvas: int) -> Tensor:
    """One image (1, 1, S, S) on a canvas, placed by the formulas under test."""
    drawn = data.RTS(torch.tensor([angle]), torch.tensor([scale]), torch.tensor([centre]))
    theta = data.rts_theta(drawn, image.shape[-1], canvas)
    return tstn.spatial_transform(image, theta, "similarity", (canvas, canvas))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (14, 14), (3, 9), (7, 7)])
def test_rts_whole_pixels_copy(row: int, column: int) -> None:
    image = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    middle = (CANVAS - SIZE) / 2
    centre = ((column - middle) / (CANVAS / 2), (row - middle) / (CANVAS / 2))
    expected = torch.zeros(1, 1, CANVAS, CANVAS)
    expected[..., row : row + SIZE, column : column + SIZE] = image
    torch.testing.assert_close(placed(image, 0, 1, centre, CANVAS), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rts_turns_counter_clockwise(turns: int) -> None:
    image = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.pad(image.rot90(turns, (2, 3)), (7, 7, 7, 7))
    torch.testing.assert_close(placed(image, 90.0 * turns, 1, (0, 0), CANVAS), expected, atol=1e-4, rtol=0)


def test_rts_scale_enlarges() -> None:
    # Halved, each pixel is the mean of four; the square of side 28 has side 14 then.
    image = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.pad(torch.nn.functional.avg_pool2d(image, 2), (14, 14, 14, 14))
    torch.testing.assert_close(placed(image, 0, 0.5, (0, 0), CANVAS), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("x", "y"), [(-1, -1), (1, -1), (1, 1), (-1, 1)])
@pytest.mark.parametrize("scale", data.RTS_SCALES)
def test_rts_farthest_place_cuts_nothing(scale: float, x: int, y: int) -> None:
    room = 1 - scale * SIZE / CANVAS
    out = placed(torch.ones(1, 1, SIZE, SIZE), 0, scale, (x * room, y * room), CANVAS)
    # The square's edge is a ramp, of which the canvas may cut the outer half.
    assert out.sum() == pytest.approx((scale * SIZE) ** 2, rel=0.01)
    assert out[0, 0, 0 if y < 0 else -1, 0 if x < 0 else -1] == pytest.approx(1, abs=0.2)


def test_rts_draws() -> None:
    drawn = data.draw_rts(5000, SIZE, CANVAS, torch.Generator().manual_seed(0))
    assert drawn.angle.abs().amax() <= 45
    assert drawn.angle.amin() < -44
    assert drawn.angle.amax() > 44
    assert drawn.scale.amin() == pytest.approx(0.7, abs=0.01)
    assert drawn.scale.amax() == pytest.approx(1.2, abs=0.01)
    edge = drawn.centre.abs() + drawn.scale[:, None] * SIZE / CANVAS
    assert edge.amax() <= 1 + 1e-6
    assert edge.amax() > 0.99
    assert drawn.centre.mean(0).abs().amax() < 0.02


def test_rts_canvas_too_small() -> None:
    with pytest.raises(ValueError, match=r"canvas must be at least 1.2 \* 28 pixels wide; got 33"):
        data.rts(torch.zeros(1, 1, SIZE, SIZE), torch.Generator(), canvas=33)


def test_rts_is_seeded() -> None:
    images = torch.rand(4, 1, SIZE, SIZE)
    one, same, other = (data.rts(images, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert one.shape == (4, 1, CANVAS, CANVAS)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_batches() -> None:
    def keep(images: Tensor, generator: torch.Generator) -> Tensor:
        return images

    labels = torch.arange(10)
    images = labels.float().view(10, 1, 1, 1)
    stream = data.batches(images, labels, 5, keep, torch.Generator().manual_seed(0))
    passes = [torch.cat([next(stream)[1], next(stream)[1]]) for _ in range(3)]
    assert all(torch.equal(p.sort().values, labels) for p in passes)
    assert not torch.equal(passes[0], passes[1])
    x, y = next(data.batches(images, labels, 4, keep, torch.Generator()))
    assert torch.equal(x.flatten().long(), y)
    # The rest of a pass, smaller than a batch, is left out.
    stream = data.batches(images, labels, 4, keep, torch.Generator())
    assert {len(next(stream)[1]) for _ in range(5)} == {4}


@pytest.mark.parametrize("batch_size", [0, 3])
def test_batches_of_impossible_size(batch_size: int) -> None:
    with pytest.raises(ValueError, match="batch_size must be from 1 to the number of images, 2"):
        next(data.batches(torch.zeros(2, 1, 1, 1), torch.zeros(2), batch_size, data.rts, torch.Generator()))


def test_distorted_in_portions() -> None:
    images = torch.rand(1200, 1, SIZE, SIZE)
    out = data.distorted(images, data.rts, seed=5)
    assert out.shape == (1200, 1, CANVAS, CANVAS)
    assert torch.equal(out, data.distorted(images, data.rts, seed=5))
    whole = data.rts(images, torch.Generator().manual_seed(5))
    torch.testing.assert_close(out, whole, atol=1e-5, rtol=0)
