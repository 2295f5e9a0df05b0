"""One image, as training and evaluation read it."""

import io

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest

from kdjax import data

ROWS, COLUMNS = 9, 14


def pixels(channels=3):
    shape = (ROWS, COLUMNS, channels) if channels else (ROWS, COLUMNS)
    return np.random.default_rng(channels).integers(0, 256, shape, np.uint8)


def stored(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


# EXIF orientation -> what a viewer shows: where stored row 0 and column 0 are in the picture.
ORIENTATIONS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_orientation_of_exif_is_applied(tmp_path, orientation):
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = orientation
    path = tmp_path / "photo.png"
    path.write_bytes(stored(PIL.Image.fromarray(pixels()), exif=exif))
    expected = ORIENTATIONS[orientation](pixels())
    for source in (path, str(path), path.read_bytes()):
        np.testing.assert_array_equal(data.read_image(source), expected)


def test_the_caller_s_image_stays_as_it_is():
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    image = PIL.Image.open(io.BytesIO(stored(PIL.Image.fromarray(pixels()), exif=exif)))
    np.testing.assert_array_equal(data.read_image(image), ORIENTATIONS[6](pixels()))
    np.testing.assert_array_equal(image, pixels())
    assert image.getexif()[PIL.ExifTags.Base.Orientation] == 6


def test_the_result_is_not_the_caller_s_image():
    first, second = (PIL.Image.fromarray(pixels() // share) for share in (1, 2))
    image = PIL.Image.open(io.BytesIO(stored(first, save_all=True, append_images=[second])))
    data.read_image(image).paste((0, 0, 0), (0, 0, COLUMNS, ROWS))
    np.testing.assert_array_equal(image, first)
    image.seek(1)  # Its file is still open.
    np.testing.assert_array_equal(image, second)


def test_a_palette_that_pillow_leaves_out_is_found():
    """As in an ICNS file: without a palette, Pillow cannot say whether a colour is transparent."""
    grey = PIL.Image.fromarray(np.full((16, 16, 3), 77, np.uint8)).quantize(4)
    assert data.read_image(stored(grey, "ICNS")).getpixel((3, 3)) == (77, 77, 77)


@pytest.mark.parametrize("channels", [0, 3])
def test_what_is_upright_and_opaque_is_not_copied(monkeypatch, channels):
    """A copy of a photo takes as long as half of its decoding."""
    encoded = stored(PIL.Image.fromarray(pixels(channels)))

    def copy(self):
        raise AssertionError("copied")

    monkeypatch.setattr(PIL.Image.Image, "copy", copy)
    image = data.fit_image(data.read_image(encoded), (ROWS, COLUMNS, channels or 1))
    np.testing.assert_array_equal(image.squeeze(), pixels(channels))


def test_an_animation_stands_for_its_first_image():
    first, second = (PIL.Image.fromarray(pixels() // share) for share in (1, 2))
    for kind in ("PNG", "WEBP"):
        options = {"save_all": True, "append_images": [second], "lossless": True}
        read = data.read_image(stored(first, kind, **options))
        np.testing.assert_array_equal(np.asarray(read.resize(read.size)), pixels())


def test_broken_exif_data_leaves_the_image_as_stored(caplog):
    encoded = stored(PIL.Image.fromarray(pixels()), exif=b"Exif\0\0nothing of that kind")
    np.testing.assert_array_equal(data.read_image(encoded, "photo.png"), pixels())
    assert "photo.png: its EXIF data cannot be read" in caplog.text


def test_what_is_transparent_is_white():
    array = pixels(4)
    array[..., 3] = np.array([0, 255, 128] * (ROWS * COLUMNS // 3)).reshape(ROWS, COLUMNS)
    image = data.read_image(stored(PIL.Image.fromarray(array, "RGBA")))
    assert image.mode == "RGB"
    alpha = array[..., 3:] / 255
    np.testing.assert_allclose(image, array[..., :3] * alpha + 255 * (1 - alpha), atol=1)
    opaque, clear = array[..., 3] == 255, array[..., 3] == 0
    np.testing.assert_array_equal(np.asarray(image)[opaque], array[opaque][:, :3])
    assert (np.asarray(image)[clear] == 255).all()


def test_a_grey_image_with_alpha_stays_grey():
    array = pixels(2)
    array[..., 1] = 255 * (np.arange(COLUMNS) % 2)
    image = data.read_image(stored(PIL.Image.fromarray(array, "LA")))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image)[:, 1::2], array[:, 1::2, 0])
    assert (np.asarray(image)[:, ::2] == 255).all()


def test_a_transparent_colour_of_a_palette_is_white():
    image = PIL.Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 10, 20])
    image.putpixel((3, 2), 0)
    read = data.read_image(stored(image, transparency=0))
    assert read.getpixel((3, 2)) == (255, 255, 255) and read.getpixel((0, 0)) == (200, 10, 20)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no image", "does not decode as an image"), (None, "cannot be read: No such file")],
)
def test_what_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "cat.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(data.DataError, match=rf"cat\.png {message}"):
        data.read_image(path)


def test_bytes_that_do_not_decode_are_called_what_they_are_said_to_be():
    with pytest.raises(data.DataError, match="upload 3 does not decode"):
        data.read_image(b"no image", "upload 3")


@pytest.mark.parametrize("memory", ["device", "stream"])
def test_an_image_is_fitted_as_evaluation_sees_it(tmp_path, memory):
    rng = np.random.default_rng(0)
    for number in range(8):
        path = tmp_path / ("ape", "bee")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        array = rng.integers(0, 256, (10 + number, 13, 3), np.uint8)
        PIL.Image.fromarray(array).save(path)
    options = data.SourceOptions(validation=0.0, test=0.5, image_size=(9, 11))
    if memory == "device":
        read = data.load(f"folder:{tmp_path}", options)
        images = read.test.images
    else:
        read = data.stream(f"folder:{tmp_path}", options)
        images = next(read.evaluation_batches("test", batch_size=4)).images
    fitted = {
        data.fit_image(data.read_image(path), read.image_shape, memory).tobytes()
        for path in tmp_path.rglob("*.png")
    }
    assert len(images) == 4 and {image.tobytes() for image in images} <= fitted


@pytest.mark.parametrize("memory", ["device", "stream"])
def test_an_image_of_the_size_is_taken_whole_and_grey_and_colour_change(memory):
    image = PIL.Image.fromarray(pixels(0))
    grey = data.fit_image(image, (ROWS, COLUMNS, 1), memory)
    np.testing.assert_array_equal(grey, pixels(0)[..., None])
    colour = data.fit_image(image, (ROWS, COLUMNS, 3), memory)
    np.testing.assert_array_equal(colour, np.repeat(grey, 3, -1))
    back = data.fit_image(PIL.Image.fromarray(colour), (ROWS, COLUMNS, 1), memory)
    np.testing.assert_array_equal(back, grey)
